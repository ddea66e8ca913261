"""Rules of recurrent layers: how they carry reorderable axes on, as in rules.py.

The weights of all gates of a layer lie one after the other on the first axis, so that it is the hidden units
once per gate.
"""

from __future__ import annotations

from typing import Any

from g_pt.permutations.axis_groups import AxisGroups, fixed
from g_pt.permutations.blocks import Blocks

Axes = list[Blocks]
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def layer(
    groups: AxisGroups, gates: int, below: Blocks, weights: list[Axes], projection: Axes | None = None
) -> tuple[Blocks, Blocks]:
    """The hidden and the cell units of one layer, which reads `below`; weights are input, hidden and any biases.

    They are the same but in an LSTM with a projection (P, H), whose hidden units are sums of the cells' outputs.
    """
    from_input, from_hidden, *biases = weights
    groups.unify(below, from_input[1])
    cells = from_hidden[1]
    if projection is not None:
        groups.unify(projection[0], from_hidden[1])
        cells = projection[1]
    for axes in (from_input, from_hidden, *biases):
        groups.unify(axes[0], cells * gates)
    return groups.resolve(from_hidden[1]), groups.resolve(cells)


def start(groups: AxisGroups, states: list[tuple[Axes, list[Blocks]]]) -> None:
    """Starting states are added to the units; all layers share the axis of these states."""
    for state, units in states:
        if not groups.is_constant(state[-1]):
            groups.unify(state[-1], *units)


def recurrent(groups: AxisGroups, a: dict[str, Any], shape: Any, gates: int) -> Any:
    """lstm, gru and rnn over whole sequences: (outputs, last hidden states, last cell states of an lstm)."""
    if "params" not in a:
        raise NotImplementedError  # packed sequences
    plain, directions = (4 if a["has_biases"] else 2), (2 if a["bidirectional"] else 1)
    per_layer = len(a["params"]) // (directions * a["num_layers"])  # one more with a projection
    below, hidden, cells = a["input"][-1], [], []
    for depth in range(a["num_layers"]):
        found = []
        for direction in range(directions):
            first = (depth * directions + direction) * per_layer
            weights = a["params"][first : first + per_layer]
            made, cell_units = layer(groups, gates, below, weights[:plain], *weights[plain:])
            found.append(made)
            cells.append(cell_units)
        below = tuple(block for axis in found for block in axis)
        hidden += found
    kinds = [hidden, cells] if gates == 4 else [hidden]
    start(groups, list(zip(a["hx"] if gates == 4 else [a["hx"]], kinds, strict=True)))
    for number, units in enumerate(kinds, start=1):
        if number in a["used"]:  # the last states of all layers lie in one tensor
            groups.unify(*units)
    last = ([fixed(s[0]), *(fixed(n) for n in s[1:-1]), u[0]] for s, u in zip(shape[1:], kinds, strict=True))
    return ([*a["input"][:-1], below], *last)


def cell(groups: AxisGroups, a: dict[str, Any], shape: Any, gates: int) -> Any:
    """One step: the next hidden state, and the next cell state of an lstm."""
    weights = [a[key] for key in ("w_ih", "w_hh", "b_ih", "b_hh") if a.get(key)]
    units, _ = layer(groups, gates, a["input"][-1], weights)
    start(groups, [(state, [units]) for state in (a["hx"] if gates == 4 else [a["hx"]])])
    state = [*a["input"][:-1], groups.resolve(units)]
    return (state, state) if gates == 4 else state


RECURRENT = {
    name: lambda groups, a, shape, gates=gates: recurrent(groups, a, shape, gates) for name, gates in GATES.items()
} | {
    f"{name}_cell": lambda groups, a, shape, gates=gates: cell(groups, a, shape, gates) for name, gates in GATES.items()
}
