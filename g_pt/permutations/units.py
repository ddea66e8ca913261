"""Which entries of a flat parameter vector belong to each unit, pair of units and remaining chunk.

A unit (hidden neuron, channel) owns the slices, along its axis, of every tensor that has no other permutable axis:
for a hidden layer its row of incoming weights, its bias, its column of outgoing weights. A tensor between two groups
of units (hidden to hidden, a convolution between channels) is neither's: each pair of units has an edge with the
numbers that belong to both, one for a Linear, a whole kernel for a convolution. What has no permutable axis (the last
bias) is cut into chunks.

U = units of a group, K = numbers per unit, edge or chunk, R / C = units of the groups of an edge tensor's rows /
columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, product
from typing import Literal

import torch
from torch import Tensor

from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations.blocks import Blocks
from g_pt.permutations.spec import PermutationSpec

Tokenization = Literal["units", "slices", "chunks", "kinds"]


@dataclass(frozen=True)
class TokenIndex:
    """Which entries of the flat vector make each unit, chunk and edge; every entry occurs exactly once.

    Attributes:
        units: `{group: (U, K)}`, a unit per row.
        chunks: `{"tensor[i]": (1, K)}`.
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
    for name, index in layout.unflatten(torch.arange(layout.num_params, device="cpu")).items():
        for groups, piece, _ in pieces(index, blocks[name]):
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
        g: torch.cat(p, dim=1) if p else torch.empty(n, 0, dtype=torch.int64, device="cpu")
        for (g, n), p in zip(permutations.group_sizes(layout).items(), units.values(), strict=True)
    }
    return TokenIndex(joined, chunks, {pair: torch.cat(p, dim=2) for pair, p in edges.items()})


def labelled_pieces(
    layout: ParameterLayout, permutations: PermutationSpec, chunk_size: int
) -> Iterator[tuple[str, tuple[str, ...], Tensor]]:
    """Kind, groups and entries (units of each group, ..., K) of all pieces; see `g_pt.permutations.plans` for kinds.

    Raises:
        ValueError: a tensor has three permutable axes.
    """
    blocks = permutations.blocks(layout)
    for name, index in layout.unflatten(torch.arange(layout.num_params, device="cpu")).items():
        for groups, piece, pattern in pieces(index, blocks[name]):
            if len(groups) > 2:
                raise ValueError(
                    f"a tensor may have at most two permutable axes, {name!r} has {groups}; fix one of them in the spec"
                )
            kind = f"{name.rpartition('.')[2]}[{pattern}]"
            chunks = piece.split(chunk_size) if not groups else (piece,)
            for number, chunk in enumerate(chunks):
                yield f"{kind}@{number}" if number else kind, groups, chunk if groups else chunk[None]


def pieces(index: Tensor, axes: tuple[Blocks, ...]) -> Iterator[tuple[tuple[str, ...], Tensor, str]]:
    """Cut a tensor where its axes change group: yields groups, entries (units of each group, ..., K), and its shape.

    The shape is written with a star for each axis of units: "*,64", and "10,*x25" where a unit has 25 entries.
    """
    starts = [list(accumulate((b.size for b in blocks), initial=0)) for blocks in axes]
    for choice in product(*(range(len(blocks)) for blocks in axes)):
        part, shape, movable, words = index, [], [], []
        for axis, (which, blocks) in enumerate(zip(choice, axes, strict=True)):
            block = blocks[which]
            part = part.narrow(axis, starts[axis][which], block.size)
            shape += [block.units, block.inner]
            if block.group is not None:
                movable.append(axis)
            inner = "" if block.inner == 1 else f"x{block.inner}"
            words.append(str(block.size) if block.group is None else f"*{inner}")
        others = [d for d in range(len(shape)) if d not in [2 * a for a in movable]]
        part = part.reshape(shape).permute([2 * a for a in movable] + others)
        groups = tuple(str(axes[a][choice[a]].group) for a in movable)
        yield groups, part.reshape(*part.shape[: len(movable)], -1), ",".join(words)
