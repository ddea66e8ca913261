"""A registry of rules for the tests of choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from g_pt.files.choices import ChosenFrom

RULES = {"adam": "toy_rules:Adam", "sgd": "toy_rules:Sgd", "lookahead": "toy_rules:Lookahead"}


@dataclass(frozen=True)
class Adam:
    """Adaptive steps."""

    learning_rate: float = 1e-3
    """Size of a step."""


@dataclass(frozen=True)
class Sgd:
    """Plain steps."""

    learning_rate: float = 0.1
    """Size of a step."""
    weight_decay: float | None = None
    """Decay."""
    nesterov: bool = False
    """Look ahead."""


@dataclass(frozen=True)
class Lookahead:
    """Slow steps of another rule."""

    rule: Annotated[Any, ChosenFrom(RULES)] = "sgd"
    """Fast rule."""
    every: int = 5
    """Fast steps."""
