"""Settings of a harvest. This file imports no torch, so that `--help` is fast."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from rl_tasks.ppo_config import PPOConfig

Spacing = Literal["mixed", "log", "linear"]


# settings of training by a loss, which tasks that train their own networks do not read
NOT_OF_POLICIES = (
    "optimizer", "learning_rate", "learning_rate_range", "momentum", "weight_decay", "batch_size", "mixed_precision",
)  # fmt: skip


@dataclass(frozen=True)
class HarvestConfig:
    """How runs are trained and which of their checkpoints are kept."""

    task: str = "digits"
    """Task whose networks are trained: a name, path/to/file.py:Class or package.module:Class."""
    num_runs: int = 4000
    """Number of networks."""
    num_steps: int = 400
    """Optimizer steps of each run; of policies, iterations of PPO."""
    num_checkpoints: int = 60
    """Checkpoints kept of each run, the first (before training) and the last included."""
    spacing: Spacing = "mixed"
    """Which steps are kept: evenly spaced, evenly spaced in log(step), or half of each."""
    optimizer: str = "nesterov"
    """nesterov, sgd, adam, adamw or rmsprop."""
    learning_rate: float = 0.1
    """Base learning rate of all runs; it falls to 0 along a cosine."""
    learning_rate_range: tuple[float, float] | None = None
    """Draw the base learning rate of each run between these two, log-uniformly, in place of learning_rate."""
    momentum: float = 0.9
    """Momentum of nesterov, sgd and rmsprop."""
    weight_decay: float = 5e-4
    """Weight decay, on all parameters."""
    batch_size: int = 64
    """Training examples per step; networks of a shard share their order."""
    seed: int = 0
    """The same seed gives the same bytes."""
    runs_per_shard: int = 250
    """Networks trained as one tensor program and written as one shard."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the parameters on disk."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of products in training and in the metrics of checkpoints; parameters are always float32."""
    max_abs_param: float = 10.0
    """A run with a larger or non-finite parameter at any checkpoint is left out."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """Of policies, for which num_steps are iterations of PPO; optimizer, learning_rate, learning_rate_range, momentum,
    weight_decay, batch_size and mixed_precision are those of other tasks."""

    def __post_init__(self) -> None:
        for name in ("num_runs", "num_steps", "batch_size", "runs_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "momentum", "weight_decay", "seed", "max_abs_param"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.learning_rate_range is not None:
            low, high = self.learning_rate_range
            if not 0 < low <= high < math.inf:
                raise ValueError(
                    "learning_rate_range must be two positive numbers, the smaller first, "
                    f"got {self.learning_rate_range}"
                )
        if not 2 <= self.num_checkpoints <= self.num_steps + 1:
            raise ValueError(
                f"num_checkpoints must lie between 2 and num_steps + 1 = {self.num_steps + 1}, "
                f"got {self.num_checkpoints}"
            )

    def to_json(self, *, policies: bool = False) -> dict[str, Any]:
        """The settings as a dataset records them: lists for pairs, and nothing for what is not set or not used."""
        unused = NOT_OF_POLICIES if policies else ("ppo",)
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in unused}
        if policies:
            settings["ppo"] = listed(asdict(self.ppo))
        return listed({name: value for name, value in settings.items() if value is not None})

    def check_policies(self) -> None:
        """Refuse settings that do nothing for policies, so that nobody waits for them.

        Raises:
            ValueError: one of them is not at its default.
        """
        for name in NOT_OF_POLICIES:
            default = type(self).__dataclass_fields__[name].default
            if getattr(self, name) != default:
                raise ValueError(f"{name} is no setting of policies, got {getattr(self, name)!r}; theirs are in ppo")

    @property
    def num_shards(self) -> int:
        """Shards of the finished dataset; the last may hold fewer runs."""
        return -(-self.num_runs // self.runs_per_shard)


def listed(settings: dict[str, Any]) -> dict[str, Any]:
    """Lists for pairs, as JSON gives them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def checkpoint_steps(num_steps: int, num_checkpoints: int, spacing: Spacing) -> list[int]:
    """Steps after which a checkpoint is kept: `num_checkpoints` different ones from 0 to `num_steps`.

    Candidates are taken from the spacing at finer and finer resolution until enough of them differ, since
    logarithmic spacing repeats small integers.
    """
    for resolution in range(2, 64 * (num_steps + num_checkpoints)):
        fractions = [i / (resolution - 1) for i in range(resolution)]
        steps = {0, num_steps}
        if spacing in ("linear", "mixed"):
            steps |= {round(num_steps * f) for f in fractions}
        if spacing in ("log", "mixed"):
            steps |= {round((num_steps + 1) ** f) - 1 for f in fractions}
        if len(steps) >= num_checkpoints:
            inner = sorted(steps - {0, num_steps})
            surplus = len(steps) - num_checkpoints
            # drop the surplus evenly, never the first or the last checkpoint
            drop = {inner[int((k + 0.5) * len(inner) / surplus)] for k in range(surplus)}
            return [0, *(s for s in inner if s not in drop), num_steps]
    raise ValueError(f"{num_steps} steps hold no {num_checkpoints} checkpoints with spacing {spacing!r}")
