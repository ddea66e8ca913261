"""How the vector of one layout becomes tokens and edges: which encoder each piece of a tensor goes through, and where.

Models of one layout have an encoder of their own for each group of units; models of any size have one for each kind of
tensor, "weight[*,64]" or "bias[*]", a star for each axis of units, so that layers and widths share it.

U = units of a group, K = numbers per unit, edge or chunk, R / C = units at the two ends of an edge, P = parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations.spec import PermutationSpec
from g_pt.permutations.units import TokenIndex, labelled_pieces

REFERENCE_WIDTH = 16.0  # where the logarithms of sizes are 0
NUM_SIZES, NUM_PLACES = 3, 4


class Part(NamedTuple):
    """Numbers of a group's units (or of a chunk): which encoder, which group of tokens, (U, K)."""

    kind: int
    place: int
    shape: tuple[int, ...]


class EdgePart(NamedTuple):
    """A tensor between two groups: which encoder, which groups its rows and columns are, (R, C, K)."""

    kind: int
    row: int
    column: int
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TokenPlan:
    """The plan of one layout.

    Attributes:
        order: (P,) entries of the vector, part by part, edges last.
        parts: of tokens.
        edges: of edges.
        sizes: tokens of each group, and of each chunk.
        num_groups: how many of `sizes` are groups of units.
        scatter: (P,) inverse of `order`.
        features: (groups, 7), see `size_features`.
    """

    order: Tensor
    parts: tuple[Part, ...]
    edges: tuple[EdgePart, ...]
    sizes: tuple[int, ...]
    num_groups: int
    scatter: Tensor = field(init=False)
    features: Tensor = field(init=False)

    def __post_init__(self) -> None:
        # now, and not when they are first asked for: torch.compile knows no cached properties
        object.__setattr__(self, "scatter", self.order.argsort())
        object.__setattr__(self, "features", self.size_features())

    @property
    def lengths(self) -> list[int]:
        """Entries of each part and edge tensor."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of each part and edge tensor."""
        return [part.shape for part in self.parts] + [part.shape for part in self.edges]

    def size_features(self) -> Tensor:
        """(groups, 7): logarithms of width, fan-in and fan-out over 16; whether a group is the first and the last of
        its network; its relative place; and how many layers there are beside it. 0 for a fan that is no group."""
        rows = []
        for group, size in enumerate(self.sizes[: self.num_groups]):
            inputs = sum(self.sizes[e.column] for e in self.edges if e.row == group != e.column)
            outputs = sum(self.sizes[e.row] for e in self.edges if e.column == group != e.row)
            logs = [math.log(width / REFERENCE_WIDTH) if width else 0.0 for width in (size, inputs, outputs)]
            place = (group + 0.5) / self.num_groups - 0.5
            rows.append([*logs, float(not inputs), float(not outputs), place, self.num_groups - 1.0])
        return torch.tensor(rows, device="cpu").reshape(-1, NUM_SIZES + NUM_PLACES)

    @property
    def log_width(self) -> float:
        """Mean over the groups of the logarithm of their width over 16."""
        sizes = self.sizes[: self.num_groups]
        return sum(math.log(size / REFERENCE_WIDTH) for size in sizes) / max(1, len(sizes))


def plan_by_group(index: TokenIndex) -> TokenPlan:
    """An encoder for each group, chunk and pair of groups, as models of one layout have them."""
    tokens, groups = [*index.units.values(), *index.chunks.values()], list(index.units)
    parts = tuple(Part(i, i, tuple(part.shape)) for i, part in enumerate(tokens))
    edges = tuple(
        EdgePart(i, groups.index(row), groups.index(column), tuple(part.shape))
        for i, ((row, column), part) in enumerate(index.edges.items())
    )
    order = torch.cat([part.flatten() for part in index.parts])
    return TokenPlan(order, parts, edges, tuple(len(part) for part in tokens), len(groups))


def plan_by_kind(
    layout: ParameterLayout, permutations: PermutationSpec, kinds: Mapping[str, int], chunk_size: int = 256
) -> TokenPlan:
    """An encoder for each kind; token kinds and edge kinds are counted apart, each in the order of `kinds`.

    Raises:
        ValueError: a tensor is of a kind that is not listed.
    """
    numbers = {
        kind: i for is_edge in (False, True) for i, kind in enumerate(k for k in kinds if edge_kind(k) is is_edge)
    }
    sizes = dict(permutations.group_sizes(layout))
    groups = list(sizes)
    tokens, edges, parts, edge_parts = [], [], [], []
    counts = list(sizes.values())
    for kind, names, piece in labelled_pieces(layout, permutations, chunk_size):
        if kinds.get(kind) != piece.shape[-1]:
            raise ValueError(f"a tensor of kind {kind} is none that this model knows; its kinds are {list(kinds)}")
        if len(names) == 2:
            row, column = (groups.index(name) for name in names)
            edge_parts.append(EdgePart(numbers[kind], row, column, tuple(piece.shape)))
            edges.append(piece.flatten())
            continue
        if not names:
            counts.append(1)
        place = groups.index(names[0]) if names else len(counts) - 1
        parts.append(Part(numbers[kind], place, tuple(piece.shape)))
        tokens.append(piece.flatten())
    return TokenPlan(torch.cat([*tokens, *edges]), tuple(parts), tuple(edge_parts), tuple(counts), len(groups))


def kinds_of(layout: ParameterLayout, permutations: PermutationSpec, chunk_size: int = 256) -> dict[str, int]:
    """The kinds of a network's tensors and K of each."""
    return {kind: piece.shape[-1] for kind, _, piece in labelled_pieces(layout, permutations, chunk_size)}


def edge_kind(kind: str) -> bool:
    """Whether tensors of this kind are edges: two axes of units."""
    return kind.count("*") == 2
