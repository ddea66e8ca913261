"""Settings of meta-training: the training of an optimizer. Importing this file imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from g_pt.files.choices import ChosenFrom
from g_pt.files.config import check_at_least
from g_pt.learned_optimizers.base import CHOSEN_OPTIMIZER

CHOSEN_ESTIMATOR = ChosenFrom(
    {
        "evolution": "g_pt.evolution.unrolls:EvolutionStrategies",
        "backpropagation": "g_pt.evolution.unrolls:TruncatedBackpropagation",
    }
)


@dataclass(frozen=True)
class MetaProgress:
    """What is measured and saved on the way."""

    evaluate_every: int = 100
    """Steps between evaluations of held-out networks on the validation split, which choose the weights."""
    num_networks: int = 128
    """Held-out networks of an evaluation."""
    patience: int = 0
    """Stop once so many evaluations in a row were no better; 0 for never."""
    save_every: int = 200
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints kept; older ones are removed."""


@dataclass(frozen=True)
class MetaConfig:
    """All settings of a meta-training."""

    task: str = "digits"
    """Task whose networks are trained."""
    horizon: int = 1000
    """Steps of a training of networks."""
    batch_size: int = 64
    """Examples of a mini-batch of such a training."""
    optimizer: Annotated[Any, CHOSEN_OPTIMIZER] = "star"
    """What is learned."""
    estimator: Annotated[Any, CHOSEN_ESTIMATOR] = "evolution"
    """How the gradient of the losses along trainings is estimated."""
    num_steps: int = 1500
    """Estimates, each followed by a step of Adam on the optimizer's weights."""
    learning_rate: float = 5e-3
    """Of Adam at the start."""
    final_learning_rate: float = 0.1
    """Share of it at the end, where a cosine falls to."""
    max_norm_ratio: float = 2.0
    """Clip gradients at so many times the running mean of their norms."""
    progress: MetaProgress = field(default_factory=MetaProgress)
    """What is measured and saved on the way."""
    output: Path = Path("runs/learned-optimizer")
    """Folder of log, picture, checkpoints and, at the end, optimizer.safetensors."""
    seed: int = 0
    """Of everything random."""

    def __post_init__(self) -> None:
        check_at_least(self, horizon=1, batch_size=1, num_steps=1)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
