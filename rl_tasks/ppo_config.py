"""Settings of proximal policy optimisation. This file imports no torch, so that `--help` is fast."""

from __future__ import annotations

import math
from dataclasses import dataclass

from g_pt.files.config import check_at_least


@dataclass(frozen=True)
class PPOConfig:
    """PPO (Schulman et al. 2017) of many policies at once; names as in Stable-Baselines3."""

    learning_rate_range: tuple[float, float] = (5e-4, 5e-3)
    """The first learning rate of each run is drawn between these two, log-uniformly."""
    final_learning_rate: float = 0.1
    """Last learning rate over the first; it falls linearly."""
    num_envs: int = 4
    """Environments of each policy."""
    n_steps: int = 64
    """Steps in each environment per iteration."""
    n_epochs: int = 4
    """Passes over the steps of an iteration."""
    num_minibatches: int = 2
    """Shuffled mini-batches of a pass."""
    gamma: float = 0.99
    """Discount."""
    gae_lambda: float = 0.95
    """Decay of generalised advantage estimation."""
    clip_range: float = 0.2
    """How far the probability ratio may move from 1."""
    ent_coef: float = 0.01
    """Weight of the entropy."""
    vf_coef: float = 0.5
    """Weight of the squared error of the values."""
    max_grad_norm: float = 0.5
    """The gradient of each policy with its critic is clipped to this norm."""
    normalize_advantage: bool = True
    """Advantages of each mini-batch are shifted to mean 0 and scaled to standard deviation 1."""

    def __post_init__(self) -> None:
        check_at_least(self, num_envs=1, n_steps=1, n_epochs=1, num_minibatches=1)
        for name in ("final_learning_rate", "ent_coef", "vf_coef"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("clip_range", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        low, high = self.learning_rate_range
        if not 0 < low <= high < math.inf:
            raise ValueError(
                f"learning_rate_range must be two positive numbers, the smaller first, got {self.learning_rate_range}"
            )
        steps = self.num_envs * self.n_steps
        if steps % self.num_minibatches or steps // self.num_minibatches < 2:
            raise ValueError(
                f"num_minibatches must divide num_envs * n_steps = {steps} into batches of at least 2, "
                f"got {self.num_minibatches}"
            )
