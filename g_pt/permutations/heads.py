"""Entries of attention heads that can be reordered within each head.

A network with h heads of d entries keeps its function when whole heads move, and when the entries of a head move: those
of queries and keys together, those of values and of the output layer's columns together. A spec cannot hold both. There
are h! orders of the first kind and (d!)^2h of the second, so a few heads stay where they are and their entries move.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from itertools import combinations

from g_pt.permutations.blocks import AxisBlock, Blocks

# Every head gets groups of its own, which the model encodes one by one: many heads would be slow.
MOST_HEADS = 4

Axes = Mapping[str, tuple[Blocks, ...]]
Place = tuple[str, int, int]  # tensor, axis, which block of the axis


def free_head_entries(axes: Axes, check: Callable[[Axes], None]) -> Axes:
    """Replace each group of a few whole heads by groups of the entries of each head, where the function allows it.

    Args:
        axes: blocks of every axis of every tensor.
        check: raises ValueError for axes whose reordering changes the network's function.
    """
    places = {
        (name, number, place): block
        for name, tensor in axes.items()
        for number, blocks in enumerate(tensor)
        for place, block in enumerate(blocks)
    }
    for group in dict.fromkeys(block.group for block in places.values() if block.group is not None):
        own = {place: block for place, block in places.items() if block.group == group}
        shapes = {(block.units, block.inner) for block in own.values()}
        heads, entries = next(iter(shapes))
        if len(shapes) == 1 and heads <= MOST_HEADS and entries > 1:
            labels = _move_together(axes, own, group, check)
            if len(labels) == len(own):
                axes = _cut(axes, labels)
    return axes


def _move_together(
    axes: Axes, own: Mapping[Place, AxisBlock], group: str, check: Callable[[Axes], None]
) -> dict[Place, str]:
    """A label for each place, the same for those whose entries move together; none where no partner is found."""
    layers: dict[tuple[str, int, int], list[Place]] = {}  # a layer's weight and bias belong together
    for name, axis, place in own:
        layers.setdefault((name.rpartition(".")[0], axis, place), []).append((name, axis, place))
    rest, labels = list(layers.values()), dict[Place, str]()
    if len(rest) != 4:  # queries, keys, values, output: others, such as the parts of a GroupNorm, are no attention
        return labels
    for pair in combinations(layers.values(), 2):
        if all(part in rest for part in pair):
            together = dict.fromkeys([*pair[0], *pair[1]], f"{group}.{len(set(labels.values()))}")
            if _keeps_function(_cut(axes, together, others_move=False), check):
                labels |= together
                rest = [part for part in rest if part not in pair]
    return labels


def _keeps_function(axes: Axes, check: Callable[[Axes], None]) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an order that no output depends on proves nothing
            check(axes)
    except (ValueError, UserWarning):
        return False
    return True


def _cut(axes: Axes, labels: Mapping[Place, str], *, others_move: bool = True) -> Axes:
    """The axes with each block that has a label as a block of entries per head; the others as they are, or fixed."""

    def parts(place: Place, block: AxisBlock) -> Blocks:
        if place in labels:
            return tuple(AxisBlock(f"{labels[place]}.head{h}", block.inner) for h in range(block.units))
        return (block if others_move else AxisBlock(None, block.size),)

    return {
        name: tuple(
            tuple(part for place, block in enumerate(blocks) for part in parts((name, axis, place), block))
            for axis, blocks in enumerate(tensor)
        )
        for name, tensor in axes.items()
    }
