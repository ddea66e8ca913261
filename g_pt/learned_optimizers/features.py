"""What an optimizer's MLP sees of a parameter, and its first layer (Metz et al. 2022).

28 features of each parameter, with what the rows and columns of its tensor share given once for each:

    g, params, M_b (3), V, M_b / sqrt(V) (3), 1 / sqrt(V), f_b g (3), f_b M_b (3)      of each parameter
    R_b (3), 1 / sqrt(R_b) (3)     of each row       C_b (3), 1 / sqrt(C_b) (3)       of each column

M_b are momenta and V is the mean of squared gradients, R_b and C_b are means of them over a row or a column, and f_b
Adafactor's 1 / root of its estimate from both. Each is divided by its root mean square over the tensor. Then 11
features of time: tanh(t / s - 1).

B = networks, H = units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MOMENTUM_DECAYS, SQUARE_DECAY, FACTOR_DECAYS = (0.9, 0.99, 0.999), 0.999, (0.9, 0.99, 0.999)
TIMES = (1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5)


class TensorState(NamedTuple):
    """Running means for one tensor (B, *shape): momenta (B, 3, *shape), squares, and their rows and columns.

    Of vectors and scalars, rows are all there is; columns are the same tensor.
    """

    momenta: Tensor
    square: Tensor
    rows: Tensor
    columns: Tensor | None


class Decays(NamedTuple):
    """Of momenta (B, 3), squares (B, 1) and factors (B, 3); B may be 1."""

    momenta: Tensor
    square: Tensor
    factors: Tensor


def decays(offsets: Tensor) -> Decays:
    """Decays of their learned offsets (B, 7): 1 - exp(10 (log(1 - d) / 10 + offset))."""
    usual = offsets.new_tensor([*MOMENTUM_DECAYS, SQUARE_DECAY, *FACTOR_DECAYS])
    found = 1 - torch.exp((1 - usual).log() + 10 * offsets)
    return Decays(found[:, :3], found[:, 3:4].clamp(0, 1), found[:, 4:].clamp(0, 1))


def factored_axes(shape: torch.Size) -> tuple[int, int] | None:
    """The two longest axes of a tensor (B, ...), the shorter first: means over the second are those of rows."""
    if len(shape) < 3:
        return None
    order = sorted(range(1, len(shape)), key=lambda axis: shape[axis])
    return order[-2], order[-1]


def fresh_state(param: Tensor) -> TensorState:
    """Means of nothing, so far."""
    axes, three = factored_axes(param.shape), param.new_zeros(len(param), 3, *param.shape[1:])
    if axes is None:
        return TensorState(three, torch.zeros_like(param), three.clone(), None)
    rows, columns = (three.narrow(axis + 1, 0, 1).clone() for axis in (axes[1], axes[0]))
    return TensorState(three, torch.zeros_like(param), rows, columns)


def trailing(value: Tensor, axes: int) -> Tensor:
    """(B, K) as (B, K, 1, ...), to broadcast over tensors of so many axes."""
    return value[(...,) + (None,) * axes]


def next_state(state: TensorState, grad: Tensor, decay: Decays) -> TensorState:
    """Running means with one gradient (B, *shape) more."""
    num, axes = grad.dim() - 1, factored_axes(grad.shape)
    squares = grad * grad
    momenta = torch.lerp(grad[:, None], state.momenta, trailing(decay.momenta, num))
    square = torch.lerp(squares, state.square, trailing(decay.square[:, 0], num))
    factor, seen = trailing(decay.factors, num), squares[:, None] + 1e-30
    if axes is None or state.columns is None:
        return TensorState(momenta, square, torch.lerp(seen, state.rows, factor), None)
    rows, columns = (seen.mean(axis + 1, keepdim=True) for axis in (axes[1], axes[0]))
    return TensorState(
        momenta, square, torch.lerp(rows, state.rows, factor), torch.lerp(columns, state.columns, factor)
    )


def features(param: Tensor, grad: Tensor, state: TensorState) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """16 features of each parameter, 6 of its row and 6 of its column, which broadcast over the tensor."""
    rows, columns = state.rows, state.rows if state.columns is None else state.columns
    root = (state.square + 1e-6).rsqrt()
    factor = columns.clamp(min=1e-9).rsqrt()
    if (axes := factored_axes(grad.shape)) is not None:
        factor = factor * (rows / (rows.mean(axes[0] + 1, keepdim=True) + 1e-9)).clamp(min=1e-9).rsqrt()
    momenta, factors = state.momenta.unbind(1), factor.unbind(1)
    own = [grad, param, *momenta, state.square, *(m * root for m in momenta), root, *(f * grad for f in factors)]
    own += [f * m for f, m in zip(factors, momenta, strict=True)]
    by_row, by_column = ([*means.unbind(1), *(means + 1e-8).rsqrt().unbind(1)] for means in (rows, columns))
    return own, by_row, by_column


def time_features(steps: Tensor) -> Tensor:
    """Steps taken (B,) as (B, 11)."""
    return torch.tanh(steps[:, None] / steps.new_tensor(TIMES) - 1)


def mixed(weights: Tensor, parts: Sequence[Tensor], *, normalized: bool = False) -> list[Tensor]:
    """Sums of tensors F x (B, *shape) with weights (B or 1, F, H): H x (B, *shape).

    With `normalized`, each tensor is first divided by its root mean square, which is done to the weights.
    """
    num, shape = parts[0].dim() - 1, parts[0].shape
    if torch.compiler.is_compiling():  # becomes one loop; in eager mode a product of stacked features is faster
        if normalized:
            squares = torch.stack([part.square().reshape(shape[0], -1).mean(1) for part in parts], dim=1)
            weights = weights * (squares + 1e-5).rsqrt()[..., None]
        sums = [torch.zeros_like(parts[0]) for _ in range(weights.shape[2])]
        for f, part in enumerate(parts):
            sums = [total + part * trailing(weights[:, f, h], num) for h, total in enumerate(sums)]
        return sums
    stacked = torch.stack(tuple(parts), dim=1).reshape(shape[0], len(parts), -1)  # (B, F, N)
    if normalized:
        squares = torch.linalg.vector_norm(stacked, dim=2).square() / stacked.shape[2]
        weights = weights * (squares + 1e-5).rsqrt()[..., None]
    found = weights.mT @ stacked
    return list(found.reshape(shape[0], -1, *shape[1:]).unbind(1))


def first_layer(
    weights: Tensor, bias: Tensor, param: Tensor, grad: Tensor, state: TensorState, steps: Tensor
) -> list[Tensor]:
    """Inputs of the first hidden units, H x (B, *shape), of weights (B or 1, 39, H), bias (B or 1, H), steps (B,)."""
    own, rows, columns = features(param, grad, state)
    bias = bias + (time_features(steps)[:, None] @ weights[:, 28:])[:, 0]  # (B, H)
    found = mixed(weights[:, :16], own, normalized=True)
    by_row = mixed(weights[:, 16:22], rows, normalized=True)
    by_column = mixed(weights[:, 22:28], columns, normalized=True)
    biases = trailing(bias, param.dim() - 1).unbind(1)
    return [w + (x + b) + y for w, x, y, b in zip(found, by_row, by_column, biases, strict=True)]
