"""The log of a training run: one JSON object per line, and a picture of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from g_pt.atomic_files import atomic_path

LOG_FILE = "log.jsonl"
CURVE_FILE = "curve.png"


class TrainingLog:
    """Steps and evaluations of a run; after a resume, lines of steps that will be done again are dropped."""

    def __init__(self, folder: Path, first_step: int, *, every: int = 10, enabled: bool = True) -> None:
        """Open the log.

        Args:
            folder: for log.jsonl and curve.png.
            first_step: steps done already.
            every: steps between lines.
            enabled: whether this process writes.
        """
        self.path, self.every, self.enabled = folder / LOG_FILE, every, enabled
        self.lines: list[dict[str, Any]] = []
        if first_step and self.path.exists():
            lines = [json.loads(line) for line in self.path.read_text().splitlines()]
            self.lines = [line for line in lines if line["step"] <= first_step]

    def step(self, step: int, loss: float, grad_norm: float, learning_rate: float) -> None:
        """Note one optimizer step; raises ValueError where the loss is not finite."""
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} at step {step}; lower optimizer.learning-rate")
        if step % self.every == 0:
            self.lines.append({"step": step, "loss": loss, "grad_norm": grad_norm, "lr": learning_rate})

    def evaluation(self, step: int, measured: dict[str, Any]) -> None:
        """Note an evaluation and write everything."""
        self.lines.append({"step": step, **measured})
        self.flush()

    def flush(self) -> None:
        """Write the log and the picture atomically."""
        if not self.enabled:
            return
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        self.draw()

    def draw(self) -> None:
        """Draw loss and achieved metric over steps."""
        from g_pt.figures import save_training_curve

        save_training_curve(self.lines, self.path.with_name(CURVE_FILE))
