"""Are samples nearer to the training data than they should be? The three-sample test of Meehan et al. 2020.

"A Non-Parametric Test to Detect Data-Copying in Generative Models" (arXiv 2004.05675): samples and held-out data are
ranked together by their distance to the nearest training example. A sampler of the data's own distribution mixes with
the held-out data; one that copies comes first.

M = samples, N = held-out examples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from g_pt.evaluation.statistics import Interval


def copying_score(sampled: Tensor, held_out: Tensor) -> float:
    """Z score of the Mann-Whitney U statistic of two sets of distances to the training data, (M,) and (N,).

    Strongly negative: samples lie nearer than held-out examples, copies. About 0, give or take 2: as far. Strongly
    positive: farther off than the data, underfitting. Ties count half; their correction of the variance is left out,
    as in the paper.

    Raises:
        ValueError: fewer than two distances on a side.
    """
    check_sizes(sampled, held_out)
    return float(standardised(farther(sampled, held_out).mean(), len(sampled), len(held_out)))


def copying_interval(sampled: Tensor, held_out: Tensor, *, num_resamples: int = 1000, seed: int = 0) -> Interval:
    """`copying_score` with its 95 % percentile bootstrap interval; both sides are drawn anew."""
    check_sizes(sampled, held_out)
    wins = farther(sampled, held_out)  # (M, N)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (resample_weights(num, num_resamples, generator) for num in wins.shape)
    shares = torch.einsum("bm,mn,bn->b", rows, wins, columns)
    scores = standardised(shares, len(sampled), len(held_out))
    low, high = torch.quantile(scores, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(copying_score(sampled, held_out), low, high)


def farther(sampled: Tensor, held_out: Tensor) -> Tensor:
    """1 where a sample lies farther than a held-out example, 0.5 for ties: (M, N), float64."""
    gap = sampled.double()[:, None] - held_out.double()[None]
    return (gap.sign() + 1) / 2


def standardised(shares: Tensor, num_sampled: int, num_held_out: int) -> Tensor:
    """Z score of U / (M N), under the hypothesis that both sides have the same distribution."""
    deviation = math.sqrt((num_sampled + num_held_out + 1) / (12 * num_sampled * num_held_out))
    return (shares - 0.5) / deviation


def resample_weights(num: int, num_resamples: int, generator: torch.Generator) -> Tensor:
    """How often each example is in a bootstrap sample, over their number: (resamples, num), float64."""
    drawn = torch.randint(num, (num_resamples, num), generator=generator)
    counts = torch.zeros(num_resamples, num, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64)) / num


def check_sizes(sampled: Tensor, held_out: Tensor) -> None:
    """Refuse sides without a rank."""
    if sampled.dim() != 1 or held_out.dim() != 1 or min(len(sampled), len(held_out)) < 2:
        raise ValueError(
            "a copying score needs at least 2 distances of samples and of held-out examples, "
            f"got {tuple(sampled.shape)} and {tuple(held_out.shape)}"
        )
