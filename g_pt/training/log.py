"""The log of a training run: one JSON object per line as it happens, pictures of it, and whoever else wants to know.

Nothing in it depends on the clock, so that the log of a resumed run is that of an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any, Protocol

from g_pt.files.atomic import atomic_path

LOG_FILE = "log.jsonl"
# Below this share of the spread of trained networks, samples are all but one and the same network.
COLLAPSED = 0.3


class CollapseWarning(UserWarning):
    """Sampled networks differ much less from each other than trained ones do."""


class Listener(Protocol):
    """Whoever is told of each line and each picture, such as a tracker."""

    def line(self, line: dict[str, Any]) -> None:
        """Take in a line of the log."""
        ...

    def pictures(self, step: int, pictures: dict[str, Path]) -> None:
        """Take in PNG files, by name."""
        ...


class TrainingLog:
    """Steps and evaluations of a run, each written at once.

    After a resume, lines of steps that will be done again are dropped, and so is a line that a kill has cut.
    """

    def __init__(
        self, folder: Path, first_step: int, *, every: int = 10, enabled: bool = True, listener: Listener | None = None
    ) -> None:
        """Open the log.

        Args:
            folder: for log.jsonl and the pictures.
            first_step: steps done already.
            every: steps between lines.
            enabled: whether this process writes.
            listener: is told too; of new lines only.
        """
        self.path, self.every, self.enabled, self.listener = folder / LOG_FILE, every, enabled, listener
        self.lines = kept_lines(self.path, first_step) if first_step and enabled else []
        self.num_drawn = 0
        if enabled:
            with atomic_path(self.path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines))

    def wants(self, step: int) -> bool:
        """Whether a step gets a line."""
        return step % self.every == 0

    def step(self, step: int, loss: float, grad_norm: float, learning_rate: float, **more: float) -> None:
        """Note one optimizer step; raises ValueError where the loss is not finite."""
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} at step {step}; lower optimizer.learning-rate")
        if self.wants(step):
            self.add({"step": step, "loss": loss, "grad_norm": grad_norm, **more, "lr": learning_rate})

    def evaluation(self, step: int, measured: dict[str, Any]) -> None:
        """Note an evaluation, draw, and warn where the samples have collapsed."""
        before = [line["dispersion_ratio"] for line in self.lines if "dispersion_ratio" in line]
        ratio = measured.get("dispersion_ratio", math.inf)
        if ratio < COLLAPSED and not (before and before[-1] < COLLAPSED):
            warnings.warn(
                f"at step {step} the samples collapse: networks sampled for the best prompt lie {ratio:.2f} times as "
                "far apart as trained ones of the held-out runs",
                CollapseWarning,
                stacklevel=2,
            )
        self.add({"step": step, **measured})
        self.draw()

    def add(self, line: dict[str, Any]) -> None:
        """Write one line, which is on its way to the disk when this returns."""
        if not self.enabled:
            return
        self.lines.append(line)
        with open(self.path, "a") as file:  # opened and closed: a kill finds nothing in a buffer
            file.write(json.dumps(line) + "\n")
        if self.listener is not None:
            self.listener.line(line)

    def draw(self) -> None:
        """Draw what is new since the last time; the listener gets the pictures of evaluations."""
        if not self.enabled or len(self.lines) == self.num_drawn:
            return
        from g_pt.pictures.training import draw_curve, draw_evaluations

        draw_curve(self.lines, self.path.parent)
        if any("prompts" in line for line in self.lines[self.num_drawn :]):
            pictures = draw_evaluations(self.lines, self.path.parent)
            if self.listener is not None:
                self.listener.pictures(self.lines[-1]["step"], pictures)
        self.num_drawn = len(self.lines)


def kept_lines(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Lines up to a step; one that is cut off can only be the last."""
    kept: list[dict[str, Any]] = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        if line["step"] > last_step:
            break
        kept.append(line)
    return kept
