"""The log of a training run: one JSON object per line as it happens, pictures of it, and whoever else wants to know.

Nothing in it depends on the clock, so that the log of a resumed run is that of an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from g_pt.files.atomic import atomic_path, check_regular, named_disk_errors

LOG_FILE = "log.jsonl"
# Below this share of the spread of trained networks, samples are all but one and the same network.
COLLAPSED = 0.3


# of a line, what is read again by the pictures or here; numbers may be NaN
SCALARS = ("loss", "grad_norm", "lr", "alignment", "dispersion_ratio")
LISTS = ("prompts", "achieved", "achieved_low", "achieved_high")


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
        # opened and closed: a kill finds nothing in a buffer; not made anew where somebody has removed it
        with named_disk_errors(self.path), open(self.path, "r+") as file:
            file.seek(0, os.SEEK_END)
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
    """Lines up to a step. The last may be cut off by a kill; others that are damaged are left out, with a warning."""
    kept: list[dict[str, Any]] = []
    damaged: list[int] = []
    if path.exists():
        check_regular(path)
    texts = path.read_bytes().splitlines() if path.exists() else []
    for number, text in enumerate(texts, start=1):
        line = read_line(text)
        if line is None:
            damaged.append(number)
        elif line["step"] <= last_step:
            kept.append(line)
    if damaged and damaged != [len(texts)]:
        warnings.warn(f"left {len(damaged)} damaged lines out of {path}, the first is line {damaged[0]}", stacklevel=2)
    return kept


def read_line(text: bytes) -> dict[str, Any] | None:
    """One line of a log, or None where it is damaged."""
    try:
        line = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        return None
    tensors = line.get("held_out_by_tensor", {})
    lists = [line.get(name, []) for name in LISTS]
    if not isinstance(tensors, dict) or not all(isinstance(values, list) for values in lists):
        return None
    numbers = [*(line.get(name) for name in SCALARS), *tensors.values(), *chain.from_iterable(lists)]
    return line if all(value is None or type(value) in (int, float) for value in numbers) else None
