"""How far apart networks of one set lie: collapsed samples lie nearer to each other than the data do.

N = networks, P = parameters per network, K = pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from g_pt.evaluation.novelty.nearest import NetworkDistance


@dataclass(frozen=True)
class Spread:
    """Distances (K,) of random pairs of a set, as the networks are and minimised over the orders of units."""

    raw: Tensor
    matched: Tensor


def spread(params: Tensor, distance: NetworkDistance, num_pairs: int, generator: torch.Generator) -> Spread:
    """Distances of random pairs of different networks (N, P).

    The ratio of the mean for samples to the mean for training runs is the dispersion ratio: 1 for a sampler of the
    data's distribution, 0 for one that gives a single answer. Only the matched one compares sets of which one is
    in a common order of units.

    Raises:
        ValueError: fewer than two networks.
    """
    if len(params) < 2:
        raise ValueError(f"a spread needs at least 2 networks, got {len(params)}")
    one, other = random_pairs(len(params), num_pairs, generator)
    return Spread((params[one] - params[other]).norm(dim=1), distance.pairs(params[one], params[other]))


def random_pairs(num: int, num_pairs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of two different networks each: (K,) and (K,), int64."""
    one = torch.randint(num, (num_pairs,), generator=generator)
    step = torch.randint(1, num, (num_pairs,), generator=generator)
    return one, (one + step) % num
