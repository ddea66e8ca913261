"""Features of units that no reordering changes, and the lower bound on a distance that follows from them.

The distance of two networks over all orders of their units is at least what is left when every unit may take its
favourite partner, also one that is taken already. This relaxation costs a matrix product in place of an assignment,
and rules out nearly all of many networks.

N = networks, M = queries, U = units of a group, D = numbers per unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from g_pt.permutations.units import TokenIndex

QUERIES, OTHERS = 8, 2048  # of one block of bounds: a few MB, which stay in cache
ROUNDING = 1e-5  # relative to the squared norms: more than float32 loses in the products of the bound


@dataclass(frozen=True)
class UnitFeatures:
    """Networks as sets of units.

    Attributes:
        groups: `{group: (N, U, D)}`. A unit's features are the entries that only it owns, and each tensor of edges
            whose rows it is, sorted along the columns: `|sort(a) - sort(b)|` is the smallest distance over all orders
            of the columns.
        fixed: (N, F) entries without a unit.
    """

    groups: dict[str, Tensor]
    fixed: Tensor

    @classmethod
    def of(cls, params: Tensor, index: TokenIndex) -> UnitFeatures:
        """Features of networks (N, P)."""
        groups = {}
        for group, entries in index.units.items():
            parts = [params[:, entries]]
            for (rows, _), edges in index.edges.items():  # (R, C, K)
                if rows == group:
                    parts.append(params[:, edges].sort(dim=2).values.flatten(2))
            groups[group] = torch.cat(parts, dim=2)
        chunks = [params[:, chunk.flatten()] for chunk in index.chunks.values()]
        return cls(groups, torch.cat(chunks, dim=1) if chunks else params[:, :0])

    def __getitem__(self, rows: Tensor | slice) -> UnitFeatures:
        """Some of the networks."""
        return UnitFeatures({name: units[rows] for name, units in self.groups.items()}, self.fixed[rows])


def lower_bounds(queries: UnitFeatures, others: UnitFeatures) -> Tensor:
    """Squared distances (M, N) that no order of units can undercut, in float32 and safe against its rounding."""
    num_queries, num_others = len(queries.fixed), len(others.fixed)
    found = torch.empty(num_queries, num_others)
    for start in range(0, num_others, OTHERS):
        columns = slice(start, start + OTHERS)
        some = others[columns]
        # unit by unit of the others, each a matrix: (U, N, D)
        stacked = {name: units.transpose(0, 1).contiguous() for name, units in some.groups.items()}
        for first in range(0, num_queries, QUERIES):
            rows = slice(first, first + QUERIES)
            block = queries[rows]
            bound = squared_distances(block.fixed, some.fixed)
            for name, units in block.groups.items():
                bound += relaxed_assignment(units, stacked[name])
            found[rows, columns] = bound
    return found.clamp_(min=0)


def relaxed_assignment(units: Tensor, others: Tensor) -> Tensor:
    """The larger of two relaxations of the assignment, (M, U, D) and (U, N, D) to (M, N).

    Every unit of the one takes the nearest of the other, or every unit of the other the nearest of the one.
    """
    num_queries, num_units, _ = units.shape
    rows = units.flatten(0, 1)  # (M*U, D)
    own, theirs = rows.square().sum(dim=1), others.square().sum(dim=2)  # (M*U,), (U, N)
    nearest = torch.full((len(rows), others.shape[1]), torch.inf)
    by_column = torch.zeros(num_queries, others.shape[1])
    for other, norm in zip(others, theirs, strict=True):
        gap = torch.addmm(norm.expand(len(rows), -1), rows, other.T, alpha=-2)  # (M*U, N), without |own|²
        torch.minimum(nearest, gap, out=nearest)
        by_column += gap.add_(own[:, None]).view(num_queries, num_units, -1).amin(dim=1)
    sizes = own.view(num_queries, num_units).sum(dim=1)  # (M,)
    by_row = nearest.view(num_queries, num_units, -1).sum(dim=1) + sizes[:, None]
    return torch.maximum(by_row, by_column) - ROUNDING * (sizes[:, None] + theirs.sum(dim=0))


def tightened_bounds(own: UnitFeatures, others: UnitFeatures) -> Tensor:
    """Nearer lower bounds of the squared distances of one network to N others: (N,).

    The first step of the Hungarian algorithm: every unit pays for its nearest partner, then every partner what its
    nearest unit still lacks.
    """
    bound = (own.fixed - others.fixed).square().sum(dim=1)
    for name, units in others.groups.items():
        mine = own.groups[name]  # (1, U, D)
        sizes, theirs = mine.square().sum(dim=2), units.square().sum(dim=2)  # (1, U), (N, U)
        costs = sizes[..., None] + theirs[:, None] - 2 * mine @ units.transpose(1, 2)  # (N, U, U)
        by_row = costs.amin(dim=2, keepdim=True)
        by_column = costs.amin(dim=1, keepdim=True)
        row_first = by_row.sum(dim=(1, 2)) + (costs - by_row).amin(dim=1).sum(dim=1)
        column_first = by_column.sum(dim=(1, 2)) + (costs - by_column).amin(dim=2).sum(dim=1)
        rounding = ROUNDING * (sizes.sum(dim=1) + theirs.sum(dim=1))
        bound = bound + torch.maximum(row_first, column_first) - rounding
    return bound


def squared_distances(one: Tensor, others: Tensor) -> Tensor:
    """Of all pairs, without the rounding of products: (M, F) and (N, F) to (M, N)."""
    return torch.cdist(one, others, compute_mode="donot_use_mm_for_euclid_dist").square()
