"""How well results follow prompts, as functions of arrays.

B = networks, K = prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor

from g_pt.networks.metrics import Metric


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


def rank_correlation(prompts: Tensor, achieved: Tensor) -> Tensor:
    """Spearman's correlation of each network's achieved metrics with its prompts.

    1 where a higher prompt always gave a higher metric, whatever its value. Equal values share their mean rank; a
    network with one answer to all prompts has 0.

    Args:
        prompts: (K,) or (B, K).
        achieved: (B, K), finite.

    Returns:
        (B,) in [-1, 1].
    """
    ranks = [
        torch.from_numpy(rankdata(v.double().cpu().numpy(), axis=1)) for v in (prompts.expand_as(achieved), achieved)
    ]
    x, y = (r - r.mean(dim=1, keepdim=True) for r in ranks)
    size = x.norm(dim=1) * y.norm(dim=1)
    return torch.where(size > 0, (x * y).sum(dim=1) / size.clamp(min=1e-12), 0.0)


def best_of(chosen_by: Tensor, reported: Tensor, size: int, metric: Metric) -> Tensor:
    """Estimate the metric of the best of `size` samples: chosen on one split, reported on another.

    Args:
        chosen_by: (B, S) metric of S samples, which decides.
        reported: (B, S) any metric of the same samples.
        size: samples to choose from, at most S; the samples are cut into as many groups of this size as there are.
        metric: of `chosen_by`; says what is better.

    Returns:
        (B,) mean over the groups.
    """
    if not 1 <= size <= chosen_by.shape[1]:
        raise ValueError(f"size must lie between 1 and {chosen_by.shape[1]}, the number of samples, got {size}")
    num_groups = chosen_by.shape[1] // size
    groups, values = (v[:, : num_groups * size].reshape(len(v), num_groups, size) for v in (chosen_by, reported))
    best = metric.argbest(groups)[..., None]  # (B, groups, 1)
    return values.gather(2, best).squeeze(2).double().mean(dim=1)


@dataclass(frozen=True)
class Interval:
    """A mean over networks with its 95 % bootstrap confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self:.4g}"

    def __format__(self, spec: str) -> str:
        spec = spec or ".4g"
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def bootstrap_mean(values: Tensor, *, num_resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean of independent values (B,) with the percentile bootstrap interval of the mean."""
    return bootstrap(values, lambda resampled: resampled.mean(dim=-1), num_resamples, seed, "linear")


def bootstrap_median(values: Tensor, *, num_resamples: int = 2_000, seed: int = 0) -> Interval:
    """Lower median of independent values (B,), infinity allowed, with its percentile bootstrap interval."""
    # nearest: between a number and infinity there is nothing to interpolate
    return bootstrap(values, lambda resampled: resampled.median(dim=-1).values, num_resamples, seed, "nearest")


def bootstrap(
    values: Tensor, statistic: Callable[[Tensor], Tensor], num_resamples: int, seed: int, interpolation: str
) -> Interval:
    """A statistic over the last axis of independent values (B,), with its percentile bootstrap interval."""
    if values.dim() != 1 or len(values) < 2:
        raise ValueError(f"a bootstrap interval needs at least 2 values in one dimension, got {tuple(values.shape)}")
    values = values.double()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(values), (num_resamples, len(values)), generator=generator)
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(statistic(values[rows]), ends, interpolation=interpolation).tolist()
    return Interval(statistic(values).item(), low, high)


def summary(values: Tensor) -> dict[str, Any]:
    """Mean and interval of one value per network (B,), and the number of networks, as JSON."""
    return {**{key: finite(value) for key, value in asdict(bootstrap_mean(values)).items()}, "networks": len(values)}


def finite(value: float) -> float | None:
    """The value, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None


def first_reached(curves: Tensor, steps: Sequence[int], wanted: Tensor, metric: Metric) -> Tensor:
    """After how many steps each network is at least as good as wanted, for the first time.

    Args:
        curves: (B, S) metric after each of S steps; NaN is never good.
        steps: (S,), rising.
        wanted: (B,).
        metric: says what is better.

    Returns:
        (B,) float64; infinity where it never is.
    """
    reached = curves <= wanted[:, None] if metric.minimize else curves >= wanted[:, None]
    when = torch.tensor(steps, dtype=torch.float64).expand(len(curves), -1)
    return torch.where(reached, when, torch.inf).amin(dim=1)
