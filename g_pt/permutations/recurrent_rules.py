"""What recurrent layers do to the axes that can be reordered; rules as in rules.py.

The weights of all gates of a layer lie one after the other on the first axis, so that it is the hidden units
once per gate.
"""

from __future__ import annotations

from typing import Any

from g_pt.permutations.axis_groups import AxisGroups, fixed
from g_pt.permutations.blocks import Blocks

Axes = list[Blocks]
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def layer(groups: AxisGroups, gates: int, below: Blocks, weights: list[Axes]) -> Blocks:
    """The hidden units of one layer, which reads `below`; weights are input, hidden and any biases."""
    from_input, from_hidden, *biases = weights
    groups.unify(below, from_input[1])
    for axes in (from_input, from_hidden, *biases):
        groups.unify(axes[0], from_hidden[1] * gates)
    return groups.resolve(from_hidden[1])


def start(groups: AxisGroups, units: list[Blocks], states: list[Axes]) -> None:
    """Starting states are added to the hidden units; all layers share the axis of these states."""
    for state in states:
        if not groups.is_constant(state[-1]):
            groups.unify(state[-1], *units)


def recurrent(groups: AxisGroups, a: dict[str, Any], shape: Any, gates: int) -> Any:
    """lstm, gru and rnn over whole sequences: (outputs, last hidden states, last cell states of an lstm)."""
    if "params" not in a:
        raise NotImplementedError  # packed sequences
    per_layer, directions = (4 if a["has_biases"] else 2), (2 if a["bidirectional"] else 1)
    if len(a["params"]) != per_layer * directions * a["num_layers"]:
        raise NotImplementedError  # an lstm with projections
    below, units = a["input"][-1], []
    for depth in range(a["num_layers"]):
        found = []
        for direction in range(directions):
            first = (depth * directions + direction) * per_layer
            found.append(layer(groups, gates, below, a["params"][first : first + per_layer]))
        below = tuple(block for axis in found for block in axis)
        units += found
    start(groups, units, list(a["hx"]) if gates == 4 else [a["hx"]])
    if a["used"] - {0}:  # the last states of all layers lie in one tensor
        groups.unify(*units)
    last = [fixed(shape[1][0]), *(fixed(size) for size in shape[1][1:-1]), units[0]]
    return ([*a["input"][:-1], below], *(last for _ in shape[1:]))


def cell(groups: AxisGroups, a: dict[str, Any], shape: Any, gates: int) -> Any:
    """One step: the next hidden state, and the next cell state of an lstm."""
    weights = [a[key] for key in ("w_ih", "w_hh", "b_ih", "b_hh") if a.get(key)]
    units = layer(groups, gates, a["input"][-1], weights)
    start(groups, [units], list(a["hx"]) if gates == 4 else [a["hx"]])
    state = [*a["input"][:-1], groups.resolve(units)]
    return (state, state) if gates == 4 else state


RECURRENT = {
    name: lambda groups, a, shape, gates=gates: recurrent(groups, a, shape, gates) for name, gates in GATES.items()
} | {
    f"{name}_cell": lambda groups, a, shape, gates=gates: cell(groups, a, shape, gates) for name, gates in GATES.items()
}
