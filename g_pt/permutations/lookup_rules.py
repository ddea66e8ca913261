"""What looking up by number, sorting and writing to numbered places do to the axes that can be reordered.

Rules as in rules.py. What is looked up by number keeps its order.
"""

from __future__ import annotations

from typing import Any

from g_pt.permutations.axis_groups import AxisGroups, axis_size, fixed
from g_pt.permutations.blocks import Blocks

Axes = list[Blocks]
Arguments = dict[str, Any]


def broadcast(groups: AxisGroups, *operands: Axes) -> Axes:
    """Axes of an element-wise operation: aligned at the end, those of size 1 stretched."""
    axes: Axes = []
    for back in range(max((len(operand) for operand in operands), default=0), 0, -1):
        here = [operand[-back] for operand in operands if len(operand) >= back]
        wide = [axis for axis in here if axis_size(axis) != 1]
        axes.append(groups.unify(*wide) if wide else fixed(1))
    return axes


def embedding(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """Rows are looked up by number, so they keep their order."""
    groups.fix(a["weight"][0])
    return [*a["indices"], a["weight"][1]]


def indexed(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """`x[i, j]` with tensors of numbers: what is looked up by number keeps its order."""
    axes: Axes = a["self"]
    if not all(isinstance(size, int) for size in shape):
        raise NotImplementedError  # a mask: how many entries it takes depends on data
    dims = [dim for dim, numbers in enumerate(a["indices"]) if numbers is not None]
    numbers = broadcast(groups, *(a["indices"][dim] for dim in dims))
    groups.fix(*numbers, *(axes[dim] for dim in dims))
    first = dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else 0  # apart, they come first
    kept = [axis for dim, axis in enumerate(axes) if dim not in dims]
    return [*kept[:first], *numbers, *kept[first:]]


def embedding_bag(groups: AxisGroups, a: Arguments, shape: Any) -> Any:
    """Sums of rows; the other outputs count them."""
    groups.fix(a["weight"][0])
    return ([fixed(shape[0][0]), a["weight"][1]], *([fixed(size) for size in s] for s in shape[1:]))


def renormed(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """embedding_renorm: rows that are looked up are scaled by their norm."""
    groups.fix(a["self"][0])
    return list(a["self"])


def gather(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """Entries of one axis by number; on the others each entry has its own place."""
    dim, numbers = _dim(a), a["index"]
    groups.fix(a["self"][dim])
    _unify_others(groups, dim, a["self"], numbers)
    return [groups.resolve(axis) for axis in numbers]


def take_along_dim(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """gather, with tensor and numbers stretched to one size on the other axes."""
    dim = _dim(a)
    groups.fix(a["self"][dim])
    others = [axes[:dim] + axes[dim + 1 :] for axes in (a["self"], a["indices"])]
    found = broadcast(groups, *others)
    return [*found[:dim], a["indices"][dim], *found[dim:]]


def scatter(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """Entries written, or added, to numbered places of one axis: as many as there are numbers."""
    dim, axes, numbers = _dim(a), a["self"], a["index"]
    groups.fix(axes[dim])
    others = [numbers, a["src"]] if isinstance(a.get("src"), list) else [numbers]
    _unify_others(groups, dim, axes, *others)
    if len(others) == 2:
        _unify_or_fix(groups, numbers[dim], a["src"][dim])
    return list(axes)


def index_add(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """Slices of one axis added, or written, to numbered places."""
    dim, axes, source = _dim(a), a["self"], a.get("source")
    groups.fix(axes[dim])
    if isinstance(source, list) and source:
        _unify_others(groups, dim, axes, source)
        groups.unify(source[dim], *a["index"])
    return list(axes)


def index_select(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """Slices of one axis by number."""
    dim = _dim(a)
    groups.fix(a["self"][dim])
    return [*a["self"][:dim], *a["index"], *a["self"][dim + 1 :]]


def index_put(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """`x[i, j] = values`: numbers hold axes in their order; a mask moves with them where it writes one value."""
    axes, values = a["self"], a["values"]
    one_value = all(axis_size(axis) == 1 for axis in values)
    place = 0
    written: list[int] = []
    for numbers, mask in zip(a["indices"], a["masks"], strict=True):
        places = range(place, place + (len(numbers) if mask else 1))
        place = places.stop
        if mask and one_value:
            for dim, axis in zip(places, numbers, strict=True):
                groups.unify(axes[dim], axis)
        elif numbers is not None:
            groups.fix(*numbers, *(axes[dim] for dim in places))
            written += places
    kept = [axis for dim, axis in enumerate(axes) if dim not in written]
    if not one_value and written == list(range(len(written))):
        broadcast(groups, kept, values[-len(kept) :] if kept else [])
        groups.fix(*values[: max(0, len(values) - len(kept))])
    elif not one_value:
        groups.fix(*axes, *values)
    return list(axes)


def in_order(groups: AxisGroups, a: Arguments, shape: Any) -> Any:
    """sort, topk and their like along an axis that does not move; the others stay what they are."""
    axes: Axes = a["self"]
    dim = a.get("dim")
    dim = (-1 if dim is None else dim) % len(axes) if axes else 0
    if axes and any(block.group is not None for block in groups.resolve(axes[dim])):
        raise NotImplementedError  # which unit comes where depends on data
    many = isinstance(shape, list)
    found = tuple(
        [axis if d != dim else fixed(s[d]) for d, axis in enumerate(axes)] for s in (shape if many else [shape])
    )
    return found if many else found[0]


def _dim(a: Arguments) -> int:
    return int(a["dim"]) % max(1, len(a["self"]))


def _unify_others(groups: AxisGroups, dim: int, axes: Axes, *others: Axes) -> None:
    """Move alike on all axes but one."""
    for other in others:
        for d, (here, there) in enumerate(zip(axes, other, strict=True)):
            if d != dim:
                _unify_or_fix(groups, here, there)


def _unify_or_fix(groups: AxisGroups, first: Blocks, second: Blocks) -> None:
    """Axes of one size move alike; of two, only the first entries are used, so that neither moves."""
    if axis_size(first) == axis_size(second):
        groups.unify(first, second)
    else:
        groups.fix(first, second)


LOOKUPS = {
    "embedding": embedding,
    "embedding_bag": embedding_bag,
    "embedding_renorm": renormed,
    "index": indexed,
    "index_put": index_put,
    "gather": gather,
    "take_along_dim": take_along_dim,
    "index_select": index_select,
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), scatter),
    **dict.fromkeys(("index_add", "index_copy", "index_fill"), index_add),
    **dict.fromkeys(("sort", "argsort", "topk", "kthvalue", "mode", "cummax", "cummin", "msort"), in_order),
}
