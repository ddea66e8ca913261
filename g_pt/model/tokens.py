"""Parameter vectors as tokens and edges: exactly equivariant to reorderings of units.

Each unit of `g_pt.permutations.units` is a token, each pair of units of a tensor between two groups an edge, each chunk
a token. All units of a group, and all edges of a pair of groups, share one encoder and one decoder and carry no
position, so that f(permuted x) = permuted f(x) for any network of attention and shared layers on top.

B = batch, P = parameters per network, S = tokens, W = width, U = units of a group, K = numbers per unit, edge or
chunk, R / C = units of the groups of an edge tensor's rows / columns, E = edge width.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from g_pt.model.batched_layers import apply_linears
from g_pt.permutations.units import TokenIndex


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
