"""How well results follow prompts, as functions of arrays.

B = networks, K = prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def prompt_alignment(prompts: Tensor, achieved: Tensor) -> Tensor:
    """R² of each network's achieved metrics against the identity line (Peebles et al. 2022, section 4).

    1 - sum_k (achieved_k - prompt_k)² / sum_k (prompt_k - mean prompt)². A perfect prompter has 1, a constant
    answer at most 0; there is no lower bound.

    Args:
        prompts: (K,) or (B, K), at least two different ones per network.
        achieved: (B, K).

    Returns:
        (B,).
    """
    prompts = prompts.expand_as(achieved).double()
    if prompts.shape[1] < 2:
        raise ValueError(f"alignment needs at least 2 prompts per network, got {prompts.shape[1]}")
    if (prompts.amax(dim=1) == prompts.amin(dim=1)).any():
        raise ValueError("alignment needs prompts that differ")
    spread = (prompts - prompts.mean(dim=1, keepdim=True)).square().sum(dim=1)
    gap = (achieved.double() - prompts).square().sum(dim=1)
    return 1 - gap / spread


@dataclass(frozen=True)
class Interval:
    """A mean over networks with its 95 % bootstrap confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def bootstrap_mean(values: Tensor, *, num_resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean of independent values (B,) with the percentile bootstrap interval of the mean."""
    if values.dim() != 1 or len(values) < 2:
        raise ValueError(f"a bootstrap interval needs at least 2 values in one dimension, got {tuple(values.shape)}")
    values = values.double()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(values), (num_resamples, len(values)), generator=generator)
    means = values[rows].mean(dim=1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(values.mean().item(), low, high)


def bootstrap_median(values: Tensor, *, num_resamples: int = 2_000, seed: int = 0) -> Interval:
    """Median of independent values (B,) with the percentile bootstrap interval of the median, in the field `mean`."""
    if values.dim() != 1 or len(values) < 2:
        raise ValueError(f"a bootstrap interval needs at least 2 values in one dimension, got {tuple(values.shape)}")
    values = values.double()
    rows = torch.randint(len(values), (num_resamples, len(values)), generator=torch.Generator().manual_seed(seed))
    medians = values[rows].quantile(0.5, dim=1)
    low, high = torch.quantile(medians, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(values.quantile(0.5).item(), low, high)
