"""Rules of the tensor operations: how each carries reorderable axes on.

A rule takes the groups found so far, the operation's arguments by name, and the shape of its output. Tensors
among the arguments are lists of axes; "used" are the numbers of the outputs that are read. It returns the axes
of the output (a tuple of them if there are several outputs) and tells the groups which axes move alike. It
raises NotImplementedError for a variant that it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from g_pt.permutations.axis_groups import AxisGroups, axis_size, fixed
from g_pt.permutations.blocks import Blocks
from g_pt.permutations.channel_rules import CHANNELS, pool
from g_pt.permutations.lookup_rules import LOOKUPS, broadcast
from g_pt.permutations.recurrent_rules import RECURRENT

Axes = list[Blocks]
Arguments = dict[str, Any]
Rule = Callable[[AxisGroups, Arguments, Any], Any]

# Rearrangements of entries: they are run on positions, see axis_views.py.
VIEWS = frozenset((
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "transpose", "t", "numpy_T", "permute", "movedim",
    "moveaxis", "swapaxes", "swapdims", "squeeze", "unsqueeze", "expand", "expand_as", "view_as", "reshape_as",
    "slice", "select", "narrow", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "contiguous",
    "clone", "detach", "detach_", "alias", "lift_fresh", "lift_fresh_copy", "repeat", "tile", "flip", "roll",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold", "diagonal", "repeat_interleave",
))  # fmt: skip
# In eval mode these return their input.
IDENTITIES = frozenset((
    "dropout", "dropout_", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "to", "_to_copy",
    "type_as",
))  # fmt: skip
# Constant along every axis, so that any order of them is right.
CONSTANTS = frozenset((
    "zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full",
    "scalar_tensor",
))  # fmt: skip
REDUCTIONS = frozenset((
    "mean", "sum", "amax", "amin", "max", "min", "prod", "var", "std", "var_mean", "std_mean", "logsumexp",
    "norm", "linalg_vector_norm", "any", "all", "median",
))  # fmt: skip
POOLING = re.compile(
    r"(?:(?:max|avg|adaptive_avg|adaptive_max)_pool|reflection_pad|replication_pad|upsample_\w+?)(\d)d"
)


def rule_for(name: str, pointwise: bool) -> Rule | None:
    """The rule of the aten operation of this name, or None if there is none."""
    if name in RULES:
        return RULES[name]
    if pointwise:
        return elementwise
    if name in REDUCTIONS:
        return reduce
    if match := POOLING.match(name):
        return lambda groups, a, shape: pool(groups, a, shape, int(match[1]))
    return None


def elementwise(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """Each output entry depends on the entries at its own place."""
    return broadcast(groups, *(value for value in a.values() if isinstance(value, list) and is_axes(value)))


def is_axes(value: list[Any]) -> bool:
    """Whether an argument is a tensor's axes, and not a list of sizes or of tensors."""
    return all(isinstance(part, tuple) and part and hasattr(part[0], "inner") for part in value)


def same(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """Softmax and its like: the axis is mixed, but all of its units alike."""
    return list(a["self"])


def constant(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """The same number everywhere."""
    axes = [groups.fresh(size) for size in shape]
    groups.constant.update(block.group for axis in axes for block in axis if block.group)
    return axes


def reduce(groups: AxisGroups, a: Arguments, shape: Any) -> Any:
    """Sums, means and extremes do not depend on the order of what they sum over."""
    axes: Axes = a["self"]
    dims = a.get("dim")
    dims = range(len(axes)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = {dim % len(axes) for dim in dims} if axes else set()
    if isinstance(a.get("dim"), int) and 1 in a["used"]:  # max and min also say where: order matters
        groups.fix(*(axes[dim] for dim in gone))
    kept = [fixed(1) if d in gone else axis for d, axis in enumerate(axes) if d not in gone or a.get("keepdim")]
    return tuple(list(kept) for _ in shape) if isinstance(shape, list) else kept


def ordered(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """Running sums and triangles: some axes are read in their order, the others alike."""
    axes: Axes = list(a["self"])
    groups.fix(*([axes[a["dim"]]] if "dim" in a else axes[-2:]))
    return axes


def gated(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """glu: the first half of an axis times a function of the second."""
    axes: Axes = list(a["self"])
    dim = a["dim"] % len(axes)
    half = groups.fresh(axis_size(axes[dim]) // 2)
    groups.unify(axes[dim], (*half, *half))
    return [*axes[:dim], half, *axes[dim + 1 :]]


def cosine(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """cosine_similarity: a product summed over one axis."""
    return reduce(groups, a | {"self": broadcast(groups, a["x1"], a["x2"])}, shape)


def bilinear(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """x1 and x2 with a weight of shape (out, in1, in2)."""
    groups.unify(a["input1"][-1], a["weight"][1])
    groups.unify(a["input2"][-1], a["weight"][2])
    out = groups.unify(a["weight"][0], *(a.get("bias") or []))
    return [*broadcast(groups, a["input1"][:-1], a["input2"][:-1]), out]


def arg_reduce(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """The place of an extreme depends on the order."""
    dims = range(len(a["self"])) if a.get("dim") is None else [a["dim"]]
    groups.fix(*(a["self"][dim] for dim in dims))
    return reduce(groups, a, shape)


def linear(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """`x @ weight.T + bias`."""
    groups.unify(a["input"][-1], a["weight"][1])
    out = groups.unify(a["weight"][0], *(a.get("bias") or []))
    return [*a["input"][:-1], out]


def matmul(groups: AxisGroups, first: Axes, second: Axes) -> Axes:
    """Sums over the last axis of the first and the last but one of the second."""
    left = first if len(first) > 1 else [fixed(1), *first]
    right = second if len(second) > 1 else [*second, fixed(1)]
    groups.unify(left[-1], right[-2])
    out = broadcast(groups, left[:-2], right[:-2])
    return out + ([left[-2]] if len(first) > 1 else []) + ([right[-1]] if len(second) > 1 else [])


def plus_matmul(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """addmm and baddbmm."""
    keys = ("mat1", "mat2") if "mat1" in a else ("batch1", "batch2")
    return broadcast(groups, a["self"], matmul(groups, a[keys[0]], a[keys[1]]))


def einsum(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """Axes of one letter move alike; those of an ellipsis are aligned at the end."""
    inputs, arrow, output = a["equation"].replace(" ", "").partition("->")
    letters: dict[str, Blocks] = {}
    hidden: list[Axes] = []  # behind an ellipsis
    for term, axes in zip(inputs.split(","), a["tensors"], strict=True):
        before, dots, after = term.partition("...")
        start, end = len(before), len(axes) - len(after)
        hidden.append(axes[start:end])
        for letter, axis in zip(before + after, [*axes[:start], *axes[end:]] if dots else axes, strict=True):
            letters[letter] = groups.unify(letters.get(letter, axis), axis)
    if not arrow:
        output = "..." + "".join(sorted(letter for letter in letters if inputs.count(letter) == 1))
    before, dots, after = output.partition("...")
    between = broadcast(groups, *hidden) if dots else []
    return [*(letters[letter] for letter in before), *between, *(letters[letter] for letter in after)]


def attention(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """softmax(q k) v over the last two axes."""
    query, key, value, mask = a["query"], a["key"], a["value"], a.get("attn_mask")
    if a.get("enable_gqa") and len(query) > 2:  # a head of keys serves several of queries, one after the other
        key, value = (_with_repeated_heads(groups, axes, axis_size(query[-3])) for axes in (key, value))
    groups.unify(query[-1], key[-1])
    positions = groups.unify(key[-2], value[-2])
    if a.get("is_causal"):
        groups.fix(query[-2], positions)
    batch = broadcast(groups, query[:-2], key[:-2], value[:-2])
    if mask:
        broadcast(groups, [*batch, query[-2], positions], mask)
    return [*batch, query[-2], value[-1]]


def _with_repeated_heads(groups: AxisGroups, axes: Axes, num_heads: int) -> Axes:
    """Axes of keys or values after `repeat_interleave` of their heads."""
    heads = groups.resolve(axes[-3])
    times = num_heads // axis_size(heads)
    return [*axes[:-3], tuple(block._replace(inner=block.inner * times) for block in heads), *axes[-2:]]


def layer_norm(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """Statistics over the last axes do not depend on their order."""
    return broadcast(groups, a["input"], a.get("weight") or [], a.get("bias") or [])


def distances(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """cdist: a sum over the last axis of both."""
    groups.unify(a["x1"][-1], a["x2"][-1])
    return [*broadcast(groups, a["x1"][:-2], a["x2"][:-2]), a["x1"][-2], a["x2"][-2]]


def concatenate(groups: AxisGroups, a: Arguments, shape: Any) -> Axes:
    """Axes one after the other; the other axes move alike."""
    tensors: list[Axes] = a["tensors"]
    dim = a.get("dim", 0) % len(shape)
    if len(tensors[0]) < len(shape):  # stack: a new axis
        joined = broadcast(groups, *tensors)
        return [*joined[:dim], fixed(len(tensors)), *joined[dim:]]
    found = [groups.unify(*axes) if d != dim else () for d, axes in enumerate(zip(*tensors, strict=True))]
    found[dim] = tuple(block for axes in tensors for block in axes[dim])
    return found


RULES: dict[str, Rule] = {
    "linear": linear,
    "matmul": lambda groups, a, shape: matmul(groups, a["self"], a["other"]),
    "mm": lambda groups, a, shape: matmul(groups, a["self"], a["mat2"]),
    "bmm": lambda groups, a, shape: matmul(groups, a["self"], a["mat2"]),
    "mv": lambda groups, a, shape: matmul(groups, a["self"], a["vec"]),
    "dot": lambda groups, a, shape: matmul(groups, a["self"], a["tensor"]),
    "addmm": plus_matmul,
    "baddbmm": plus_matmul,
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
    "cdist": distances,
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
    "cat": concatenate,
    "concat": concatenate,
    "stack": concatenate,
    "glu": gated,
    "cosine_similarity": cosine,
    "bilinear": bilinear,
    "vdot": lambda groups, a, shape: matmul(groups, a["self"], a["other"]),
    "_weight_norm": lambda groups, a, shape: broadcast(groups, a["v"], a["g"]),
    "argmax": arg_reduce,
    "argmin": arg_reduce,
    **dict.fromkeys(("masked_fill", "copy", "fill", "zero"), elementwise),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "hardswish", "log_sigmoid"), same),
    **dict.fromkeys(("cumsum", "cumprod", "logcumsumexp", "tril", "triu"), ordered),
    **dict.fromkeys(CONSTANTS, constant),
    **CHANNELS,
    **LOOKUPS,
    **RECURRENT,
}
