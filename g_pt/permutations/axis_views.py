"""Which axes of a rearranged tensor move, told from where each of its entries comes from.

`view`, `transpose`, `chunk` and their like need no rules of their own: they are run on a tensor of positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from g_pt.permutations.axis_groups import AxisGroups, fixed
from g_pt.permutations.blocks import AxisBlock, Blocks, reorder


class Claim(NamedTuple):
    """A group of the source on one axis of the view: the unit at each position, -1 where there is none."""

    block: AxisBlock
    units: Tensor


def view_axes(groups: AxisGroups, source: list[Blocks], shape: tuple[int, ...], index: Tensor) -> list[Blocks]:
    """Axes of a view; groups of the source are cut, coarsened or fixed where the view demands it.

    Args:
        groups: what is known of the groups so far; it is changed.
        source: axes of the tensor that the view was taken of.
        shape: its shape.
        index: (*shape of the view) position of each entry in the flattened source.
    """
    while True:
        axes = _view_axes(groups, [groups.resolve(axis) for axis in source], shape, index)
        if axes is not None:
            return axes


def _view_axes(groups: AxisGroups, source: list[Blocks], shape: tuple[int, ...], index: Tensor) -> list[Blocks] | None:
    """The axes, or None if a group had to be rewritten first."""
    claims: list[list[Claim]] = [[] for _ in index.shape]
    coordinates = torch.unravel_index(index, shape) if shape else ()
    for axis, position in zip(source, coordinates, strict=True):
        for block, unit in _units(axis, position):
            number = _only_axis(groups, block, unit)
            if number is None:
                return None
            line = unit.movedim(number, 0).flatten(1)[:, 0] if unit.dim() > 1 else unit
            claims[number].append(Claim(block, line))
    axes = [
        # along an expanded axis all entries are the same, so that any order of them is right
        groups.fresh(size) if bool((index == index.narrow(number, 0, 1)).all()) else _assemble(size, lines)
        for number, (size, lines) in enumerate(zip(index.shape, claims, strict=True))
    ]
    for found in axes:
        if isinstance(found, AxisBlock):  # the block that does not fit
            groups.fix((found,))
            return None
    found_axes = [axis for axis in axes if not isinstance(axis, AxisBlock)]
    if not _moves_alike(source, shape, index, found_axes):
        groups.fix(*source)
        return None
    return found_axes


def _units(axis: Blocks, position: Tensor) -> list[tuple[AxisBlock, Tensor]]:
    """A block of each group on the axis that the view reaches, and the unit at every entry of the view, or -1."""
    found: dict[str, tuple[AxisBlock, Tensor]] = {}
    start = 0
    for block in axis:
        if block.group is not None:
            inside = (position >= start) & (position < start + block.size)
            _, before = found.get(block.group, (block, torch.full_like(position, -1)))
            found[block.group] = block, torch.where(inside, (position - start) // block.inner, before)
        start += block.size
    return [(block, unit) for block, unit in found.values() if bool((unit >= 0).any())]


def _only_axis(groups: AxisGroups, block: AxisBlock, unit: Tensor) -> int | None:
    """The one axis of the view along which the block's units lie, or None if its group had to be rewritten."""
    for factor in range(1, block.units):
        if block.units % factor:
            continue
        whole = torch.where(unit < 0, -1, unit // factor)
        along = [a for a in range(unit.dim()) if bool((whole != whole.narrow(a, 0, 1)).any())]
        if len(along) == 1 and len(whole[whole >= 0].unique()) == block.units // factor:
            if factor == 1:
                return along[0]
            groups.coarsen(block, factor)
            return None
    used = unit[unit >= 0].unique()
    first, last = int(used[0]), int(used[-1])
    if len(used) == last - first + 1 < block.units:
        groups.cut(block, first, last + 1)  # a part was selected
    else:
        groups.fix((block,))
    return None


def _assemble(size: int, claims: list[Claim]) -> Blocks | AxisBlock:
    """The blocks of one axis, or the block of the source whose units do not lie one after the other."""
    if not claims:
        return fixed(size)
    blocks: list[AxisBlock] = []
    start = 0
    while start < size:
        here = [claim for claim in claims if claim.units[start] >= 0]
        if not here:
            blocks.append(AxisBlock(None, 1))
            start += 1
            continue
        block, line = here[0]
        inner = int((line[start:] != line[start]).int().argmax()) or 1  # units repeat: entries of one lie together
        expected = torch.arange(block.units).repeat_interleave(inner)
        end = start + len(expected)
        if len(here) > 1 or not torch.equal(line[start:end], expected):
            return here[-1].block
        blocks.append(AxisBlock(block.group, block.units, inner))
        start = end
    return tuple(blocks)


def _moves_alike(source: list[Blocks], shape: tuple[int, ...], index: Tensor, axes: list[Blocks]) -> bool:
    """Whether the view of a reordered source is the reordered view."""
    generator = torch.Generator().manual_seed(0)
    units = {block.group: block.units for axis in (*source, *axes) for block in axis if block.group is not None}
    moves = {group: torch.randperm(num, generator=generator)[None] for group, num in units.items()}
    positions = torch.arange(torch.Size(shape).numel()).view(1, *shape)
    moved = reorder(positions, tuple(source), moves).flatten()[index]
    return torch.equal(moved, reorder(index[None], tuple(axes), moves)[0])
