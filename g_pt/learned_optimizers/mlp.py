"""small_fc and STAR: an MLP for every parameter, on the features of `g_pt.learned_optimizers.features`.

B = networks, H = units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from g_pt.learned_optimizers.base import Shapes, num_weights, split_weights
from g_pt.learned_optimizers.features import (
    Decays,
    TensorState,
    decays,
    first_layer,
    fresh_state,
    mixed,
    next_state,
    trailing,
)
from g_pt.update_rules.base import Optimizer
from g_pt.update_rules.first_order import per_network

if TYPE_CHECKING:
    from g_pt.update_rules.base import Tensors


NUM_FEATURES, WIDTH, NUM_DECAYS = 39, 4, 7
Nominal = Literal["gradient", "momentum", "mean-momentum", "adam", "mean-adam"]


@dataclass(frozen=True)
class SmallFc:
    """small_fc_lopt (Metz et al. 2022): an MLP 39-4-4-2 for every parameter; 197 weights.

    params <- params - step d exp(magnitude m), of the two outputs d and m.
    """

    step: float = 0.01
    """Factor of the step; 0.001 in google/learned_optimization."""
    magnitude: float = 0.001
    """Factor of the second output, in the exponent."""
    compile: bool = False
    """Compile by torch.compile: a slow first step for each shape of a tensor, then several times faster ones."""
    num_heads: ClassVar[int] = 2

    @property
    def shapes(self) -> Shapes:
        """Of the weights: matrices (inputs, outputs) and biases in turn, then offsets of the decays."""
        sizes = (NUM_FEATURES, WIDTH, WIDTH, self.num_heads)
        return (*(shape for n, m in pairwise(sizes) for shape in ((n, m), (m,))), (NUM_DECAYS,))

    @property
    def num_weights(self) -> int:
        """See `LearnableOptimizer`."""
        return num_weights(self.shapes)

    def init(self, generator: torch.Generator) -> Tensor:
        """See `LearnableOptimizer`: matrices truncated normal with deviation 1/sqrt(inputs), all else 0."""
        return fresh_weights(self.shapes, generator)

    def optimizer(self, weights: Tensor) -> Optimizer[Any]:
        """See `LearnableOptimizer`."""
        return MlpOptimizer(self, weights)


@dataclass(frozen=True)
class Star(SmallFc):
    """STAR (Harrison et al. 2022): small_fc as a bounded residual of a nominal optimizer, with decay; 207 weights.

    params <- (1 - weight_decay e^r) params - step d exp(magnitude m) - nominal_rate e^n G, of four outputs d, m, n, r.
    With a nominal rate and a decay of 0 it is small_fc with two idle outputs.
    """

    step: float = 0.003
    """Factor of the residual; 0.001 in google/learned_optimization."""
    nominal_rate: float = 0.003
    """Learning rate of the nominal optimizer."""
    nominal: Nominal = "mean-adam"
    """Direction G of the nominal optimizer: the gradient, the slowest momentum or the mean of the three; `adam` and
    `mean-adam` are these over the root of the mean of squares."""
    weight_decay: float = 1e-4
    """Share of the parameters that a step takes off."""
    controller: float = 1.0
    """Factor of n and r, in the exponents; 0.001 in google/learned_optimization."""
    per_tensor: bool = True
    """Take the means of n and r over each tensor."""
    preconditioned: bool = False
    """Divide the residual by the root of the mean of squares, too."""
    zero_head: bool = True
    """Let fresh weights be the nominal optimizer: its last matrix is 0."""
    num_heads: ClassVar[int] = 4

    def init(self, generator: torch.Generator) -> Tensor:
        """See `LearnableOptimizer`."""
        weights = super().init(generator)
        if self.zero_head:
            start, size = num_weights(self.shapes[:4]), WIDTH * self.num_heads
            weights[start : start + size] = 0
        return weights


class MlpState(NamedTuple):
    """Steps taken (B,), and running means of each tensor."""

    steps: Tensor
    tensors: dict[str, TensorState]


class Mlp(NamedTuple):
    """Decays, and matrices (B, inputs, outputs) and biases (B, outputs) of the layers; B may be 1."""

    decay: Decays
    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    last: Tensor
    last_bias: Tensor

    def outputs(self, param: Tensor, grad: Tensor, state: TensorState, steps: Tensor) -> list[Tensor]:
        """Outputs for every parameter, H x (B, *shape)."""
        hidden = first_layer(self.first, self.first_bias, param, grad, state, steps)
        for weights, bias in ((self.second, self.second_bias), (self.last, self.last_bias)):
            biases = trailing(bias, param.dim() - 1).unbind(1)
            hidden = [h + b for h, b in zip(mixed(weights, [h.relu() for h in hidden]), biases, strict=True)]
        return hidden


class MlpOptimizer:
    """See `Optimizer`; of settings and weights (M,) or (B, M)."""

    def __init__(self, settings: SmallFc, weights: Tensor) -> None:
        self.settings, self.weights = settings, weights
        tuple(split_weights(weights, settings.shapes))  # refused at once

    def init(self, params: Tensors) -> MlpState:
        """See `Optimizer`."""
        some = next(iter(params.values()))
        return MlpState(some.new_zeros(len(some)), {name: fresh_state(param) for name, param in params.items()})

    def update(
        self, params: Tensors, grads: Tensors, losses: Tensor, state: MlpState, rate: float | Tensor
    ) -> tuple[Tensors, MlpState]:
        """See `Optimizer`; writes into nothing."""
        *layers, offsets = split_weights(self.weights.to(state.steps), self.settings.shapes)
        mlp = Mlp(decays(offsets), *layers)
        step = compiled() if self.settings.compile else moved
        new: Tensors = {}
        states = {}
        for name, param in params.items():
            own_rate = per_network(rate, param)
            if self.settings.compile and isinstance(own_rate, int | float):
                own_rate = param.new_tensor(own_rate)  # a number would be compiled in, and every other one anew
            new[name], states[name] = step(
                self.settings, mlp, param, grads[name], state.tensors[name], state.steps, own_rate
            )
        return new, MlpState(state.steps + 1, states)


def moved(
    settings: SmallFc,
    mlp: Mlp,
    param: Tensor,
    grad: Tensor,
    state: TensorState,
    steps: Tensor,
    rate: float | Tensor,
) -> tuple[Tensor, TensorState]:
    """A tensor (B, *shape) after a step, and its running means."""
    state = next_state(state, grad, mlp.decay)
    direction, magnitude, *control = mlp.outputs(param, grad, state, steps)
    step = settings.step * direction * torch.exp(settings.magnitude * magnitude)
    if isinstance(settings, Star):
        step = with_nominal(settings, step, control, param, grad, state)
    return param - rate * step, state


@cache
def compiled() -> Callable[..., tuple[Tensor, TensorState]]:
    """`moved`, compiled once for every shape that it meets."""
    return torch.compile(moved, dynamic=False)


def with_nominal(
    star: Star, step: Tensor, control: Sequence[Tensor], param: Tensor, grad: Tensor, state: TensorState
) -> Tensor:
    """The residual step of STAR (B, *shape), with its nominal optimizer and decay of the parameters."""
    if star.per_tensor and param.dim() > 1:
        control = [head.mean(tuple(range(1, head.dim())), keepdim=True) for head in control]
    rate, decay = (torch.exp(star.controller * head) for head in control)
    if star.preconditioned:
        step = step * (state.square + 1e-6).rsqrt()
    if star.nominal_rate:
        step = step + star.nominal_rate * rate * nominal_direction(star, grad, state)
    return step + star.weight_decay * decay * param if star.weight_decay else step


def nominal_direction(star: Star, grad: Tensor, state: TensorState) -> Tensor:
    """G of the nominal optimizer: (B, *shape)."""
    if star.nominal == "gradient":
        return grad
    momentum = state.momenta.mean(1) if star.nominal.startswith("mean") else state.momenta[:, 2]
    return momentum * (state.square + 1e-6).rsqrt() if star.nominal.endswith("adam") else momentum


def fresh_weights(shapes: Shapes, generator: torch.Generator) -> Tensor:
    """Matrices truncated normal with deviation 1/sqrt(inputs), all else 0: (M,)."""
    parts = [torch.zeros(shape) for shape in shapes]
    for part in parts:
        if part.dim() == 2:
            torch.nn.init.trunc_normal_(part, 0.0, 1.0, -2.0, 2.0, generator=generator)
            part /= math.sqrt(len(part))
    return torch.cat([part.flatten() for part in parts])
