"""Learned optimizers as update rules. Importing this file imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from g_pt.learned_optimizers.trained import TrainedOptimizer
from g_pt.update_rules.gradient import GradientRule, Schedule


@dataclass(frozen=True)
class TrainedSmallFc(TrainedOptimizer):
    """small_fc, with the bundled weights."""

    weights: str = "small-fc"


@dataclass(frozen=True)
class TrainedLstm(TrainedOptimizer):
    """L2L, with the bundled weights."""

    weights: str = "lstm"


@dataclass(frozen=True)
class StarRule(GradientRule):
    """STAR: a learned optimizer around a nominal one. The learning rate multiplies its steps: 1 as it was trained."""

    optimizer: TrainedOptimizer = field(default_factory=TrainedOptimizer)
    learning_rate: float | tuple[float, ...] = 1.0
    schedule: Schedule = "constant"
    tuned_between: ClassVar = (1.0, 1.0)  # compared as it was trained
    title: ClassVar = "STAR"


@dataclass(frozen=True)
class SmallFcRule(StarRule):
    """small_fc, a learned optimizer. The learning rate multiplies its steps: 1 as it was trained."""

    optimizer: TrainedOptimizer = field(default_factory=TrainedSmallFc)
    title: ClassVar = "small_fc"


@dataclass(frozen=True)
class LstmRule(StarRule):
    """L2L, a learned LSTM. The learning rate multiplies its steps: 1 as it was trained."""

    optimizer: TrainedOptimizer = field(default_factory=TrainedLstm)
    tuned_between: ClassVar = None  # takes minutes
    title: ClassVar = "L2L"
