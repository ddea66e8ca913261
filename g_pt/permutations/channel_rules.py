"""Rules for convolutions, pooling and norms of channels: how they carry reorderable axes on.

Rules as in rules.py.
"""

from __future__ import annotations

from typing import Any

from g_pt.permutations.axis_groups import AxisGroups, axis_size, fixed
from g_pt.permutations.blocks import Blocks

Axes = list[Blocks]
Arguments = dict[str, Any]


def pool(groups: AxisGroups, a: Arguments, shape: Any, spatial: int) -> Any:
    """Pooling, padding and resizing of the last axes; channels are treated alike."""
    axes: Axes = a.get("self") or a["input"]
    groups.fix(*axes[-spatial:])
    sizes = shape if isinstance(shape, list) else [shape]
    found = tuple([*axes[:-spatial], *(fixed(size) for size in s[-spatial:])] for s in sizes)
    return found if isinstance(shape, list) else found[0]


def pad(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """Padding with a constant: what is added are units alike; other modes and cropping hold the axis in place."""
    axes: Axes = list(a["self"])
    for back in range(len(a["pad"]) // 2):
        before, after = a["pad"][2 * back : 2 * back + 2]
        axis = axes[-1 - back]
        if before or after:
            if before < 0 or after < 0 or a.get("mode", "constant") != "constant":
                groups.fix(axis)
                axes[-1 - back] = fixed(shape[-1 - back])
            else:
                axes[-1 - back] = (*groups.fresh(before), *axis, *groups.fresh(after))
    return axes


def convolution(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """Channels are summed over; with groups of channels, these move as wholes."""
    x, weight, bias, num = a["input"], a["weight"], a.get("bias") or [], a["groups"]
    _fix_spatial(groups, x, weight)
    if num > 1:
        whole = groups.fresh(num)
        groups.unify(x[-len(weight) + 1], _wholes(whole, axis_size(x[-len(weight) + 1])))
        groups.unify(weight[0], _wholes(whole, axis_size(weight[0])))
        groups.fix(weight[1])
    else:
        groups.unify(x[-len(weight) + 1], weight[1])
    return _with_channels(x, groups.unify(weight[0], *bias), shape, len(weight) - 2)


def transposed_convolution(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """As a convolution, but the weight is (channels in, channels out / groups, ...)."""
    x, weight, bias, num = a["input"], a["weight"], a.get("bias") or [], a["groups"]
    _fix_spatial(groups, x, weight)
    groups.unify(x[-len(weight) + 1], weight[0])
    out = weight[1]
    if num > 1:
        whole = groups.fresh(num)
        groups.unify(weight[0], _wholes(whole, axis_size(weight[0])))
        out = _wholes(whole, axis_size(weight[1]) * num)
        groups.fix(weight[1])
    return _with_channels(x, groups.unify(out, *bias), shape, len(weight) - 2)


def _wholes(whole: Blocks, size: int) -> Blocks:
    return tuple(block._replace(inner=block.inner * (size // axis_size(whole))) for block in whole)


def _fix_spatial(groups: AxisGroups, x: Axes, weight: Axes) -> None:
    groups.fix(*x[-len(weight) + 2 :], *weight[2:])


def _with_channels(x: Axes, channels: Blocks, shape: Any, spatial: int) -> Axes:
    return [*x[: -spatial - 1], channels, *(fixed(size) for size in shape[-spatial:])]


def channel_norm(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """Batch and instance norm, and PReLU: parameters for each channel, which is axis 1."""
    x: Axes = list(a.get("input") or a["self"])
    channel = min(1, len(x) - 1)
    for key in ("weight", "bias", "running_mean", "running_var"):
        if a.get(key) and axis_size(a[key][0]) != 1:  # one slope may serve all channels
            x[channel] = groups.unify(x[channel], a[key][0])
    return x


def group_norm(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """Groups of channels are normalised together: they move as wholes, unless there is one."""
    x: Axes = list(a["input"])
    channels = axis_size(x[1])
    if a["num_groups"] > 1:
        groups.unify(x[1], groups.fresh(a["num_groups"], channels // a["num_groups"]))
    return channel_norm(groups, a | {"input": x}, shape)


CHANNELS = {
    "pad": pad,
    "constant_pad_nd": pad,
    "batch_norm": channel_norm,
    "instance_norm": channel_norm,
    "prelu": channel_norm,
    "group_norm": group_norm,
    **dict.fromkeys((f"conv{n}d" for n in (1, 2, 3)), convolution),
    **dict.fromkeys((f"conv_transpose{n}d" for n in (1, 2, 3)), transposed_convolution),
}
