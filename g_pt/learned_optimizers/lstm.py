"""L2L: an LSTM for every parameter, with weights that all parameters share and states of their own.

B = networks, P = parameters per network, n = width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from g_pt.learned_optimizers.base import Shapes, num_weights, split_weights
from g_pt.update_rules.base import Optimizer

if TYPE_CHECKING:
    from g_pt.update_rules.base import Tensors


@dataclass(frozen=True)
class Lstm:
    """L2L (Andrychowicz et al. 2016): two LSTM layers for every parameter, which see its gradient; 5,141 weights."""

    step: float = 0.1
    """Factor of the step; 0.01 in the paper, for networks."""
    width: int = 20
    """Hidden units of each layer."""
    log_range: float = 5.0
    """k of the inputs: max(log(|g|) / k, -1) and g e^k between -1 and 1."""

    @property
    def shapes(self) -> Shapes:
        """Of the weights: for each layer those of the inputs, of the states, and the bias; then the output's."""
        n = self.width
        layers = (((size, 4 * n), (n, 4 * n), (4 * n,)) for size in (2, n))
        return (*(shape for layer in layers for shape in layer), (n, 1), (1,))

    @property
    def num_weights(self) -> int:
        """See `LearnableOptimizer`."""
        return num_weights(self.shapes)

    def init(self, generator: torch.Generator) -> Tensor:
        """See `LearnableOptimizer`: uniform in ±1/sqrt(width) as PyTorch's, the output's normal of 0.01."""
        return fresh_weights(self, generator)

    def optimizer(self, weights: Tensor) -> Optimizer[Any]:
        """See `LearnableOptimizer`."""
        return LstmOptimizer(self, weights)


class LstmState(NamedTuple):
    """Hidden and cell states of both layers, (B, P, n) each."""

    hidden: tuple[Tensor, Tensor]
    cell: tuple[Tensor, Tensor]


class LstmOptimizer:
    """See `Optimizer`; of settings and weights (M,) or (B, M)."""

    def __init__(self, settings: Lstm, weights: Tensor) -> None:
        self.settings, self.weights = settings, weights
        tuple(split_weights(weights, settings.shapes))  # refused at once

    def init(self, params: Tensors) -> LstmState:
        """See `Optimizer`."""
        some = next(iter(params.values()))
        size = sum(param[0].numel() for param in params.values())
        zeros = lambda: some.new_zeros(len(some), size, self.settings.width)  # noqa: E731
        return LstmState((zeros(), zeros()), (zeros(), zeros()))

    def update(
        self, params: Tensors, grads: Tensors, losses: Tensor, state: LstmState, rate: float | Tensor
    ) -> tuple[Tensors, LstmState]:
        """See `Optimizer`; writes into nothing."""
        *layers, last, last_bias = split_weights(self.weights.to(state.hidden[0]), self.settings.shapes)
        seen = inputs(torch.cat([grad.flatten(1) for grad in grads.values()], dim=1), self.settings.log_range)
        hidden, cell = [], []
        for k in (0, 1):
            seen, kept = lstm_cell(seen, state.hidden[k], state.cell[k], *layers[3 * k : 3 * k + 3])
            hidden.append(seen)
            cell.append(kept)
        step = self.settings.step * (seen @ last + last_bias[:, None])[..., 0]  # (B, P)
        step = step * (rate if isinstance(rate, int | float) else rate[:, None])
        parts = step.split([param[0].numel() for param in params.values()], dim=1)
        new = {name: p + part.view(p.shape) for (name, p), part in zip(params.items(), parts, strict=True)}
        return new, LstmState((hidden[0], hidden[1]), (cell[0], cell[1]))


def inputs(grads: Tensor, log_range: float) -> Tensor:
    """Logarithm and sign of gradients (B, P): (B, P, 2)."""
    logs = ((grads.abs() + 1e-8).log() / log_range).clamp(min=-1)
    return torch.stack([logs, (math.exp(log_range) * grads).clamp(-1, 1)], dim=-1)


def lstm_cell(
    seen: Tensor, hidden: Tensor, cell: Tensor, weights: Tensor, recurrent: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Next hidden and cell states (B, P, n) of inputs (B, P, size); gates in the order of `torch.nn.LSTMCell`."""
    gates = seen @ weights + hidden @ recurrent + bias[:, None]
    enter, forget, new, leave = gates.chunk(4, dim=-1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
    return leave.sigmoid() * cell.tanh(), cell


def fresh_weights(settings: Lstm, generator: torch.Generator) -> Tensor:
    """Weights (M,), uniform in ±1/sqrt(n) in the layers; the output's normal with deviation 0.01, its bias 0."""
    bound = 1 / math.sqrt(settings.width)
    layers = (torch.rand(settings.num_weights - settings.width - 1, generator=generator) * 2 - 1) * bound
    last = 0.01 * torch.randn(settings.width, generator=generator)
    return torch.cat([layers, last, torch.zeros(1)])
