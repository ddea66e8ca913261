"""Does a result belong to its start? Distances between starts and results, each over the orders of units too.

A sampler that ignores its start has results that lie as far from their own start as from any other.

B = networks, P = parameters per network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from g_pt.evaluation.novelty.nearest import NearestNetworks, NetworkDistance
from g_pt.evaluation.novelty.spread import random_pairs


@dataclass(frozen=True)
class StartIdentity:
    """Of each result, (B,).

    Attributes:
        own: distance to its own start, as the networks are.
        other: distance to the start of a random other result.
        own_matched: distance to its own start over all orders of units.
        other_matched: to the same other start.
        identified: 1 where its own start is the nearest of all starts, as the networks are.
        identified_matched: 1 where it is the nearest over all orders of units.
    """

    own: Tensor
    other: Tensor
    own_matched: Tensor
    other_matched: Tensor
    identified: Tensor
    identified_matched: Tensor


def start_identity(
    starts: Tensor, results: Tensor, distance: NetworkDistance, generator: torch.Generator
) -> StartIdentity:
    """Compare results (B, P) with starts (B, P), row by row and crosswise.

    Raises:
        ValueError: shapes that differ, or fewer than two networks.
    """
    if starts.shape != results.shape or len(starts) < 2:
        raise ValueError(
            f"as many results as starts are needed, at least 2, got {tuple(results.shape)} and {tuple(starts.shape)}"
        )
    rows = torch.arange(len(starts))
    one, other = random_pairs(len(starts), len(starts), generator)
    others = starts[(rows + (other - one)) % len(starts)]
    crosswise = torch.cdist(results, starts, compute_mode="donot_use_mm_for_euclid_dist")
    return StartIdentity(
        own=(results - starts).norm(dim=1),
        other=(results - others).norm(dim=1),
        own_matched=distance.pairs(results, starts),
        other_matched=distance.pairs(results, others),
        identified=(crosswise.argmin(dim=1) == rows).float(),
        identified_matched=(NearestNetworks(starts, distance)(results).row == rows).float(),
    )
