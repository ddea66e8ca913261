"""An axis of a tensor as blocks of units, and how the units of its axes are moved.

B = networks in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class AxisBlock(NamedTuple):
    """A stretch of an axis: `units` units of a group, one after the other, with `inner` entries each.

    Entry `u * inner + k` of the block belongs to unit u. A block without a group does not move.
    """

    group: str | None
    units: int
    inner: int = 1

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.units * self.inner


Blocks = tuple[AxisBlock, ...]
Axis = str | Blocks | None


def reorder(tensor: Tensor, axes: tuple[Blocks, ...], permutations: Mapping[str, Tensor]) -> Tensor:
    """Move the units of every axis: (B, *shape) to (B, *shape), with permutations {group: (B, units)}.

    B may be 1 on either side.
    """
    for number, blocks in enumerate(axes, start=1):
        if all(block.group is None for block in blocks):
            continue
        positions = _positions(blocks, permutations)  # (B, size of the axis)
        shape = [max(len(positions), len(tensor)), *tensor.shape[1:]]
        view = [-1 if a in (0, number) else 1 for a in range(tensor.dim())]
        view[0] = len(positions)
        tensor = tensor.expand(shape).gather(number, positions.view(view).expand(shape))
    return tensor


def _positions(blocks: Blocks, permutations: Mapping[str, Tensor]) -> Tensor:
    """Where each entry of a permuted axis comes from: (B, size)."""
    parts, start = [], 0
    for group, units, inner in blocks:
        units_from = torch.arange(units)[None] if group is None else permutations[group]  # (B, units)
        if group is not None and units_from.shape[1] != units:
            raise ValueError(f"group {group!r} has {units} units, got a permutation of {units_from.shape[1]}")
        parts.append((start + units_from[..., None] * inner + torch.arange(inner)).flatten(1))
        start += units * inner
    num = max(len(part) for part in parts)
    return torch.cat([part.expand(num, -1) for part in parts], dim=1)
