"""Recurrent layers as matrix products, since torch.vmap has no rule for the fused ones.

T = steps, N = examples, I = inputs, H = hidden units, G = gates: 4 in an LSTM, 3 in a GRU, 1 otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

State = tuple[Tensor, ...]  # hidden, and cell in an LSTM: (N, H) each
# gates from the input (N, G H), state, hidden weight, hidden bias and projection to the next state
Step = Callable[[Tensor, State, Tensor, Tensor | None], State]


def lstm_step(from_input: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """Hochreiter and Schmidhuber 1997, with forget gates: next hidden and cell state."""
    i, f, g, o = (from_input + F.linear(state[0], weight, bias)).chunk(4, dim=-1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def gru_step(from_input: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """Cho et al. 2014, in cuDNN's form: the reset gate acts behind the product with the hidden state."""
    (r, z, n), (hidden_r, hidden_z, hidden_n) = (
        gates.chunk(3, dim=-1) for gates in (from_input, F.linear(state[0], weight, bias))
    )
    update = (z + hidden_z).sigmoid()
    new = (n + (r + hidden_r).sigmoid() * hidden_n).tanh()
    return (new + update * (state[0] - new),)


def tanh_step(from_input: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """Elman 1990."""
    return ((from_input + F.linear(state[0], weight, bias)).tanh(),)


def relu_step(from_input: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """Elman 1990, with ReLU."""
    return ((from_input + F.linear(state[0], weight, bias)).relu(),)


STEPS: Mapping[str, Step] = {"lstm": lstm_step, "gru": gru_step, "rnn_tanh": tanh_step, "rnn_relu": relu_step}


def run_direction(step: Step, inputs: Tensor, state: State, weights: Sequence[Tensor], biased: bool) -> Any:
    """One layer in one direction: inputs (T, N, I) to outputs (T, N, H) and the last state.

    A weight behind the others, (P, H), projects the hidden state of an LSTM (Sak et al. 2014).
    """
    bias_in, bias_hidden = weights[2:4] if biased else (None, None)
    project = weights[-1] if len(weights) in (3, 5) else None
    outputs = []
    for row in F.linear(inputs, weights[0], bias_in).unbind():
        state = step(row, state, weights[1], bias_hidden)
        if project is not None:
            state = (F.linear(state[0], project), *state[1:])
        outputs.append(state[0])
    return torch.stack(outputs), state


def recurrent(
    step: Step,
    inputs: Tensor,
    states: State,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """What torch.lstm, gru, rnn_tanh and rnn_relu compute, with their arguments: outputs and last states."""
    directions = 2 if bidirectional else 1
    per_layer = len(params) // (num_layers * directions)
    hidden = inputs.transpose(0, 1) if batch_first else inputs  # (T, N, I)
    last: list[State] = []
    for depth in range(num_layers):
        if depth and train and dropout:
            hidden = F.dropout(hidden, dropout)
        found = []
        for direction in range(directions):
            number = depth * directions + direction
            weights = params[number * per_layer : (number + 1) * per_layer]
            seen = hidden.flip(0) if direction else hidden
            outputs, state = run_direction(step, seen, tuple(s[number] for s in states), weights, has_biases)
            found.append(outputs.flip(0) if direction else outputs)
            last.append(state)
        hidden = torch.cat(found, dim=-1)
    outputs = hidden.transpose(0, 1) if batch_first else hidden
    return (outputs, *(torch.stack(parts) for parts in zip(*last, strict=True)))


class UnfusedRecurrence(TorchFunctionMode):
    """Inside it, nn.LSTM, nn.GRU, nn.RNN and their cells run as matrix products, equal to torch's up to rounding.

    Raises (inside):
        ValueError: sequences are packed.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a fused function in parts, and everything else as it is."""
        name = getattr(func, "__name__", "")
        kind = name.removesuffix("_cell")
        packed = kind in STEPS and name == kind and not isinstance(args[3], bool)  # with sizes of batches
        if name == "_pack_padded_sequence" or packed:
            raise ValueError(
                "many networks at once cannot read packed sequences (pack_padded_sequence): pad them, and mask or "
                "gather the outputs"
            )
        if kind not in STEPS:
            return func(*args, **(kwargs or {}))
        inputs, state, *others = args
        states = (state,) if isinstance(state, Tensor) else tuple(state)
        if name == kind:
            return recurrent(STEPS[kind], inputs, states, *others)
        weight_in, weight_hidden, *biases = [*others, *(kwargs or {}).values()]
        bias_in, bias_hidden = biases or (None, None)
        found = STEPS[kind](F.linear(inputs, weight_in, bias_in), states, weight_hidden, bias_hidden)
        return found if kind == "lstm" else found[0]


def has_recurrence(module: nn.Module) -> bool:
    """Whether a module holds recurrent layers or cells."""
    return any(isinstance(layer, (nn.RNNBase, nn.RNNCellBase)) for layer in module.modules())


@contextmanager
def unfused_recurrence() -> Iterator[None]:
    """Run recurrent layers as matrix products, equal to torch's up to rounding; see `UnfusedRecurrence`."""
    # cuDNN would flatten the weights, which reads their addresses: there are none under torch.vmap
    with torch.backends.cudnn.flags(enabled=False), UnfusedRecurrence():
        yield
