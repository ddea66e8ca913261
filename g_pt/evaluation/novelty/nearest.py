"""The nearest of many networks, over all orders of hidden units.

The units of every pair of networks are assigned anew (Hungarian algorithm), as in the audit of Zeng et al. 2025
("Generative modeling of weights: generalization or memorization?", arXiv 2506.07998). Bringing all networks into the
order of a single reference first is cheaper and overrates distances, so that noisy copies can pass as new.

N = networks, M = queries, P = parameters per network, U = units of a group, D = numbers per unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from g_pt.evaluation.novelty.unit_features import UnitFeatures, lower_bounds, tightened_bounds
from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec
from g_pt.permutations.matching import matched
from g_pt.permutations.units import TokenIndex, token_index

BLOCK = 16  # others whose distances are taken at once
TIGHTENED = 512
MAX_CANDIDATES = 16
QUERIES = 64


@dataclass(frozen=True)
class Nearest:
    """Distance (M,) to the nearest of the others, in L2 of raw parameters, and its row (M,), int64."""

    distance: Tensor
    row: Tensor


@dataclass(frozen=True)
class NetworkDistance:
    """L2 distance between raw parameters, minimised over the orders of hidden units.

    Exact where no tensor lies between two groups of units, as with one hidden layer. With several it is the local
    optimum of `g_pt.permutations.matching.matched`, started from the assignment of the units' own features: at most
    the distance of the networks as they are, and perhaps more than the least.
    """

    layout: ParameterLayout
    permutations: PermutationSpec

    @cached_property
    def index(self) -> TokenIndex:
        """Which entries belong to which units."""
        return token_index(self.layout, self.permutations)

    @property
    def exact(self) -> bool:
        """Whether distances are the least over all orders."""
        return not self.index.edges

    def features(self, params: Tensor) -> UnitFeatures:
        """Networks (N, P) as sets of units."""
        return UnitFeatures.of(params, self.index)

    def pairs(self, one: Tensor, other: Tensor) -> Tensor:
        """Distances row by row: (N, P) and (N, P) to (N,)."""
        if self.exact:
            return assigned_distance(self.features(one), self.features(other))
        return torch.cat([self.to_one(a, b[None]) for a, b in zip(one, other, strict=True)])

    def to_one(self, params: Tensor, others: Tensor) -> Tensor:
        """Distance of one network (P,) to each of others (N, P): (N,)."""
        own = self.features(params[None])
        theirs = self.features(others)
        if self.exact:
            return assigned_distance(own, theirs)
        orders = {name: assignment(own.groups[name], units) for name, units in theirs.groups.items()}
        started = self.permutations.permute(others, self.layout, orders)
        found = (matched(params, started, self.layout, self.permutations) - params).norm(dim=1)
        return torch.minimum(found, (others - params).norm(dim=1))


class NearestNetworks:
    """Searches the nearest of the same networks again and again.

    Others are tried in the order of a lower bound of their distance, until the bound exceeds the nearest one found:
    the result is that of trying all. Where distances are no exact minima, each costs more and only the first
    `max_candidates` are tried: copies are found, and other distances are overrated alike for all networks.
    """

    def __init__(self, others: Tensor, distance: NetworkDistance, *, max_candidates: int = MAX_CANDIDATES) -> None:
        """Prepare for the search among networks (N, P), raw, at least two."""
        if len(others) < 2:
            raise ValueError(f"the nearest of at least 2 networks can be searched, got {len(others)}")
        self.others, self.distance = others, distance
        self.features = distance.features(others)
        self.max_candidates = len(others) if distance.exact else max_candidates

    def __call__(self, queries: Tensor, *, exclude: Tensor | None = None) -> Nearest:
        """Find the nearest other of each query (M, P).

        Args:
            queries: raw.
            exclude: (M,) one row for each query that does not count: itself, where queries are among the others.
        """
        distances, rows = [], []
        for first in range(0, len(queries), QUERIES):
            part = queries[first : first + QUERIES]
            bounds = lower_bounds(self.distance.features(part), self.features)
            if exclude is not None:
                bounds[torch.arange(len(part)), exclude[first : first + QUERIES]] = torch.inf
            for query, bound in zip(part, bounds, strict=True):
                distance, row = self.search(query, bound)
                distances.append(distance)
                rows.append(row)
        return Nearest(torch.tensor(distances), torch.tensor(rows, dtype=torch.int64))

    def search(self, query: Tensor, bounds: Tensor) -> tuple[float, int]:
        """Distance and row of the nearest other of one query (P,), with lower bounds (N,) of squared distances."""
        own = self.distance.features(query[None])
        rows = bounds.topk(min(BLOCK, len(bounds)), largest=False).indices
        best, nearest, tried = math.inf, -1, 0
        while len(rows):
            found = self.distances(query, own, rows)
            if found.min() < best:
                best, nearest = found.min().item(), int(rows[found.argmin()])
            bounds[rows] = torch.inf
            tried += len(rows)
            rows = (bounds < best**2).nonzero()[:, 0]
            if tried == BLOCK and self.distance.exact:  # once: dearer than the first bounds, and rules out most
                bounds[rows] = torch.cat([tightened_bounds(own, self.features[r]) for r in rows.split(TIGHTENED)])
                rows = rows[bounds[rows] < best**2]
            rows = rows[bounds[rows].argsort()][: min(BLOCK, self.max_candidates - tried)]
        return best, nearest

    def distances(self, query: Tensor, own: UnitFeatures, rows: Tensor) -> Tensor:
        """From one query (P,) to some of the others."""
        if self.distance.exact:
            return assigned_distance(own, self.features[rows])
        return self.distance.to_one(query, self.others[rows])


def assignment(own: Tensor, others: Tensor) -> Tensor:
    """Best partner of each unit: (1 or N, U, D) and (N, U, D) to (N, U), the row of the other's unit."""
    similar = torch.einsum("nuk,nvk->nuv", own.expand(len(others), -1, -1), others).numpy()
    return torch.stack([torch.from_numpy(linear_sum_assignment(s, maximize=True)[1]) for s in similar])


def assigned_distance(own: UnitFeatures, others: UnitFeatures) -> Tensor:
    """Least distance over the orders of each group: one or N networks and N networks to (N,)."""
    squared = (own.fixed - others.fixed).square().sum(dim=1)
    for name, units in others.groups.items():
        order = assignment(own.groups[name], units)
        # differences of entries, not of products: a copy has distance 0
        gaps = units.gather(1, order[..., None].expand_as(units)) - own.groups[name]
        squared = squared + gaps.square().sum(dim=(1, 2))
    return squared.sqrt()
