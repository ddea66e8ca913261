"""Learned optimizers as update rules. Importing this file imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from g_pt.learned_optimizers.trained import TrainedOptimizer
from g_pt.update_rules.gradient import GradientRule, Schedule


@dataclass(frozen=True)
class StarRule(GradientRule):
    """STAR, or any learned optimizer from a file. The learning rate multiplies its steps: 1 as it was trained."""

    optimizer: TrainedOptimizer = field(default_factory=TrainedOptimizer)
    learning_rate: float | tuple[float, ...] = 1.0
    schedule: Schedule = "constant"
    tuned: ClassVar = {"learning_rate": (0.3, 3.0)}
    title: ClassVar = "STAR"
