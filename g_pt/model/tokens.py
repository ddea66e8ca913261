"""Parameter vectors as tokens and edges: exactly equivariant to reorderings of units.

A unit (hidden neuron, channel) owns the slices, along its axis, of every tensor that has no other permutable axis:
for a hidden layer its row of incoming weights, its bias, its column of outgoing weights. A tensor between two groups
of units (hidden to hidden, a convolution between channels) is neither's: each pair of units has an edge with the
numbers that belong to both, one for a Linear, a whole kernel for a convolution. All units of a group, and all edges
of a pair of groups, share one encoder and one decoder and carry no position, so that f(permuted x) = permuted f(x)
for any network of attention and shared layers on top. What has no permutable axis (the last bias) is cut into chunks,
one token each.

B = batch, P = parameters per network, S = tokens, W = width, U = units of a group, K = numbers per unit, edge or
chunk, R / C = units of the groups of an edge tensor's rows / columns, E = edge width.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from g_pt.model.batched_layers import apply_linears
from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import AxisBlock, PermutationSpec

Tokenization = Literal["units", "slices", "chunks"]


@dataclass(frozen=True)
class TokenIndex:
    """Which entries of the flat vector make each token and edge; every entry occurs exactly once.

    Attributes:
        units: `{group: (U, K)}`, a token per row.
        chunks: `{"tensor[i]": (1, K)}`, one token each.
        edges: `{(row group, column group): (R, C, K)}`.
    """

    units: dict[str, Tensor] = field(default_factory=dict)
    chunks: dict[str, Tensor] = field(default_factory=dict)
    edges: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    @property
    def parts(self) -> list[Tensor]:
        """All index tensors: units, chunks, edges."""
        return [*self.units.values(), *self.chunks.values(), *self.edges.values()]


def token_index(
    layout: ParameterLayout, permutations: PermutationSpec, tokenization: Tokenization = "units", chunk_size: int = 256
) -> TokenIndex:
    """Distribute the entries of the flat vector.

    Args:
        layout: of the vector.
        permutations: which axes are units.
        tokenization: "units": as described above. The others are there to compare with and are not equivariant:
            "slices" gives a tensor between two groups to the units of its first; "chunks" cuts every tensor.
        chunk_size: most entries of a chunk.

    Raises:
        ValueError: a tensor has three permutable axes.
    """
    if tokenization == "chunks":
        permutations = PermutationSpec.none(layout)
    units: dict[str, list[Tensor]] = {group: [] for group in permutations.group_sizes(layout)}
    chunks: dict[str, Tensor] = {}
    edges: dict[tuple[str, str], list[Tensor]] = {}
    blocks = permutations.blocks(layout)
    for name, index in layout.unflatten(torch.arange(layout.num_params)).items():
        for groups, piece in pieces(index, blocks[name]):
            if tokenization == "slices" and len(groups) > 1:
                groups, piece = groups[:1], piece.flatten(1)
            if len(groups) == 0:
                for part in piece.split(chunk_size):
                    chunks[f"{name}[{part[0]}]"] = part[None]
            elif len(groups) == 1:
                units[groups[0]].append(piece)
            elif len(groups) == 2:
                row, column = groups
                if (column, row) in edges and row != column:
                    row, column, piece = column, row, piece.transpose(0, 1)
                edges.setdefault((row, column), []).append(piece)
            else:
                raise ValueError(
                    f"a tensor may have at most two permutable axes, {name!r} has {groups}; fix one of them in the spec"
                )
    # a group whose tensors are all edges has units without numbers of their own
    joined = {
        g: torch.cat(p, dim=1) if p else torch.empty(n, 0, dtype=torch.int64)
        for (g, n), p in zip(permutations.group_sizes(layout).items(), units.values(), strict=True)
    }
    return TokenIndex(joined, chunks, {pair: torch.cat(p, dim=2) for pair, p in edges.items()})


def pieces(index: Tensor, axes: tuple[tuple[AxisBlock, ...], ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Cut a tensor where its axes change group: yields groups and entries (units of each group, ..., K)."""
    starts = [torch.tensor([0, *(b.size for b in blocks)]).cumsum(0).tolist() for blocks in axes]
    for choice in product(*(range(len(blocks)) for blocks in axes)):
        part, shape, movable = index, [], []
        for axis, (which, blocks) in enumerate(zip(choice, axes, strict=True)):
            block = blocks[which]
            part = part.narrow(axis, starts[axis][which], block.size)
            shape += [block.units, block.inner]
            if block.group is not None:
                movable.append(axis)
        others = [d for d in range(len(shape)) if d not in [2 * a for a in movable]]
        part = part.reshape(shape).permute([2 * a for a in movable] + others)
        groups = tuple(str(axes[a][choice[a]].group) for a in movable)
        yield groups, part.reshape(*part.shape[: len(movable)], -1)


class ParameterTokens(nn.Module):
    """Encoder from two vectors (noised and start, side by side) to tokens and edges, and decoder back."""

    gather: Tensor
    scatter: Tensor

    def __init__(self, index: TokenIndex, width: int, edge_width: int, *, positions: bool = False) -> None:
        """One encoder and one decoder per group, chunk and pair of groups.

        Decoders start at zero, so that training starts at the identity. `positions` gives every token a learned
        position, for tokenizations that are not equivariant.
        """
        super().__init__()
        tokens = [*index.units.values(), *index.chunks.values()]
        self.shapes = [tuple(part.shape) for part in tokens]  # (U, K) of each group
        self.edge_shapes = [tuple(part.shape) for part in index.edges.values()]  # (R, C, K)
        groups = list(index.units)
        self.pairs = [(groups.index(row), groups.index(column)) for row, column in index.edges]
        order = torch.cat([part.flatten() for part in index.parts])
        self.register_buffer("gather", order, persistent=False)
        self.register_buffer("scatter", order.argsort(), persistent=False)
        with warnings.catch_warnings():
            # units all of whose tensors are edges own no numbers
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            self.encoders = nn.ModuleList(nn.Linear(2 * k, width) for _, k in self.shapes)
            self.decoders = nn.ModuleList(nn.Linear(width, k) for _, k in self.shapes)
        self.kinds = nn.Parameter(0.02 * torch.randn(len(self.shapes), width))
        self.edge_encoders = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * k, edge_width), nn.GELU(), nn.Linear(edge_width, edge_width))
            for *_, k in self.edge_shapes
        )
        self.edge_decoders = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(edge_width), nn.Linear(edge_width, k)) for *_, k in self.edge_shapes
        )
        if positions:
            self.positions = nn.Parameter(0.02 * torch.randn(sum(self.sizes), width))
        for decoder in [*self.decoders, *(d[1] for d in self.edge_decoders)]:  # type: ignore[index]
            nn.init.zeros_(decoder.weight)
            nn.init.zeros_(decoder.bias)

    @property
    def sizes(self) -> list[int]:
        """Tokens of each group and chunk, in order."""
        return [shape[0] for shape in self.shapes]

    def encode(self, x_t: Tensor, x_start: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Two vectors (B, P) each to tokens of each group and chunk [(B, U, W)], and edges [(B, R, C, E)]."""
        shapes = self.shapes + self.edge_shapes
        sizes = [math.prod(shape) for shape in shapes]
        noised, start = (x[:, self.gather].split(sizes, dim=1) for x in (x_t, x_start))
        both = [
            torch.cat([a.unflatten(1, shape), b.unflatten(1, shape)], dim=-1)  # (B, ..., 2K)
            for a, b, shape in zip(noised, start, shapes, strict=True)
        ]
        num = len(self.shapes)
        encoded = apply_linears(self.encoders, both[:num])  # (B, U, W)
        tokens = [part + kind for part, kind in zip(encoded, self.kinds, strict=True)]
        if hasattr(self, "positions"):
            tokens = [t + p for t, p in zip(tokens, self.positions.split(self.sizes), strict=True)]
        edges = [e(x) for x, e in zip(both[num:], self.edge_encoders, strict=True)]  # (B, R, C, E)
        return tokens, edges

    def decode(self, tokens: list[Tensor], edges: list[Tensor]) -> Tensor:
        """Tokens [(B, U, W)] and edges [(B, R, C, E)] to a vector (B, P)."""
        parts = apply_linears(self.decoders, tokens)  # (B, U, K)
        parts += [decoder(part) for part, decoder in zip(edges, self.edge_decoders, strict=True)]  # (B, R, C, K)
        return torch.cat([part.flatten(1) for part in parts], dim=1)[:, self.scatter]  # (B, P)
