"""Parameter vectors as tokens, one token per unit: exactly equivariant to reorderings of units.

A unit (hidden neuron, channel) owns the slices of every tensor along its axis: for a hidden layer, its row of
incoming weights, its bias and its column of outgoing weights. All units of a group share one encoder and one
decoder and carry no position, so that f(permuted x) = permuted f(x) for any network of attention and shared
layers on top. Tensors without a permutable axis (the last bias) are one token each.

B = batch, P = parameters per network, S = tokens, W = width, U = units of a group, K = numbers per unit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from g_pt.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec


def unit_index(layout: ParameterLayout, permutations: PermutationSpec) -> dict[str, Tensor]:
    """Which entries of the flat vector make each token: `{group or tensor: (U, K) int64}`.

    The groups partition the vector: every entry occurs exactly once.

    Raises:
        ValueError: a tensor lies between two permutable axes; such tensors need edge channels.
    """
    sizes = permutations.group_sizes(layout)
    columns: dict[str, list[Tensor]] = {group: [] for group in sizes}
    fixed: dict[str, Tensor] = {}
    for name, index in layout.unflatten(torch.arange(layout.num_params)).items():
        movable = [axis for axis, group in enumerate(permutations.axes[name]) if group is not None]
        if len(movable) > 1:
            raise ValueError(
                f"unit tokens take tensors with at most one permutable axis, but {name!r} has "
                f"{permutations.axes[name]}; networks with one hidden layer are supported"
            )
        if movable:
            group = permutations.axes[name][movable[0]]
            assert group is not None
            columns[group].append(index.movedim(movable[0], 0).reshape(sizes[group], -1))
        else:
            fixed[name] = index.reshape(1, -1)
    return {group: torch.cat(parts, dim=1) for group, parts in columns.items()} | fixed


class UnitTokens(nn.Module):
    """Encoder from two vectors (noised and start, side by side) to tokens, and decoder back to one vector."""

    gather: Tensor
    scatter: Tensor

    def __init__(self, layout: ParameterLayout, permutations: PermutationSpec, width: int) -> None:
        """One encoder and one decoder per group; the decoder is zero, so that training starts at the identity."""
        super().__init__()
        index = unit_index(layout, permutations)
        self.shapes = [tuple(part.shape) for part in index.values()]  # (U, K) of each group
        order = torch.cat([part.flatten() for part in index.values()])
        self.register_buffer("gather", order, persistent=False)
        self.register_buffer("scatter", order.argsort(), persistent=False)
        self.encoders = nn.ModuleList(nn.Linear(2 * k, width) for _, k in self.shapes)
        self.decoders = nn.ModuleList(nn.Linear(width, k) for _, k in self.shapes)
        self.kinds = nn.Parameter(0.02 * torch.randn(len(self.shapes), width))
        for decoder in self.decoders:
            nn.init.zeros_(decoder.weight)  # type: ignore[arg-type]
            nn.init.zeros_(decoder.bias)  # type: ignore[arg-type]

    def encode(self, x_t: Tensor, x_start: Tensor) -> Tensor:
        """Two vectors (B, P) each to tokens (B, S, W)."""
        sizes = [units * k for units, k in self.shapes]
        noised = x_t[:, self.gather].split(sizes, dim=1)
        start = x_start[:, self.gather].split(sizes, dim=1)
        tokens = []
        for a, b, shape, encoder, kind in zip(noised, start, self.shapes, self.encoders, self.kinds, strict=True):
            both = torch.cat([a.unflatten(1, shape), b.unflatten(1, shape)], dim=2)  # (B, U, 2K)
            tokens.append(encoder(both) + kind)  # (B, U, W)
        return torch.cat(tokens, dim=1)  # (B, S, W)

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, S, W) to a vector (B, P)."""
        parts = tokens.split([units for units, _ in self.shapes], dim=1)
        decoded = [decoder(part).flatten(1) for part, decoder in zip(parts, self.decoders, strict=True)]
        return torch.cat(decoded, dim=1)[:, self.scatter]  # (B, P)
