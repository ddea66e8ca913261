"""First-order optimizers of B networks at once, as PyTorch's optimizers of the same name train each alone.

Settings are those of PyTorch, with its defaults. Every `update` writes in place: see `Optimizer`. Importing this file
imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from g_pt.update_rules.base import Tensors


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent."""

    momentum: float = 0.0
    """Share of the last direction that is kept."""
    weight_decay: float = 0.0
    """Added to the gradient, times the parameters."""
    nesterov: ClassVar[bool] = False

    def __post_init__(self) -> None:
        not_negative(self, "momentum", "weight_decay")

    def init(self, params: Tensors) -> Tensors:
        """Momentum buffers; none without momentum."""
        return zeros_like(params) if self.momentum else {}

    def update(
        self, params: Tensors, grads: Tensors, losses: Tensor, state: Tensors, rate: float | Tensor
    ) -> tuple[Tensors, Tensors]:
        """See `Optimizer`."""
        for name, param in params.items():
            direction = with_decay(grads[name], param, self.weight_decay)
            if self.momentum:
                buffer = state[name].mul_(self.momentum).add_(direction)
                direction = direction.add_(buffer, alpha=self.momentum) if self.nesterov else buffer
            descend(param, direction, per_network(rate, param))
        return params, state


@dataclass(frozen=True)
class Momentum(SGD):
    """Gradient descent with momentum, the heavy ball of Polyak 1964."""

    momentum: float = 0.9


@dataclass(frozen=True)
class Nesterov(Momentum):
    """Gradient descent with Nesterov's momentum, as Sutskever et al. 2013 write it."""

    nesterov: ClassVar[bool] = True


class AdamState(NamedTuple):
    """Number of steps taken, and running means of gradients and of their squares."""

    num_steps: int
    mean: Tensors
    square: Tensors


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015)."""

    weight_decay: float = 0.0
    """Added to the gradient, times the parameters."""
    beta1: float = 0.9
    """Decay of the mean of gradients."""
    beta2: float = 0.999
    """Decay of the mean of their squares."""
    eps: float = 1e-8
    """Added to the root of the mean of squares."""
    decoupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        not_negative(self, "weight_decay", "beta1", "beta2", "eps")

    def init(self, params: Tensors) -> AdamState:
        """Means of nothing, so far."""
        return AdamState(0, zeros_like(params), zeros_like(params))

    def update(
        self, params: Tensors, grads: Tensors, losses: Tensor, state: AdamState, rate: float | Tensor
    ) -> tuple[Tensors, AdamState]:
        """See `Optimizer`."""
        num_steps = state.num_steps + 1
        for name, param in params.items():
            own_rate, grad = per_network(rate, param), grads[name]
            if not self.decoupled:
                with_decay(grad, param, self.weight_decay)
            elif self.weight_decay:
                param.mul_(1 - own_rate * self.weight_decay)
            mean, denominator = self.moments(name, grad, state, num_steps)
            self.move(param, mean, denominator, own_rate / (1 - self.beta1**num_steps))
        return params, state._replace(num_steps=num_steps)

    def moments(self, name: str, grad: Tensor, state: AdamState, num_steps: int) -> tuple[Tensor, Tensor]:
        """Mean of gradients with this one more, not corrected for bias, and the corrected root of that of squares."""
        mean = state.mean[name].lerp_(grad, 1 - self.beta1)
        square = state.square[name].mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        return mean, (square / (1 - self.beta2**num_steps)).sqrt_().add_(self.eps)

    def move(self, param: Tensor, mean: Tensor, denominator: Tensor, rate: float | Tensor) -> None:
        """Subtract `rate` times `mean` / `denominator` in place; `denominator` is used up."""
        descend_ratio(param, mean, denominator, rate)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    weight_decay: float = 0.01
    """Subtracted from the parameters, times the learning rate and the parameters."""
    decoupled: ClassVar[bool] = True


class RMSpropState(NamedTuple):
    """Running means of squared gradients, and momentum buffers; none without momentum."""

    square: Tensors
    buffer: Tensors


@dataclass(frozen=True)
class RMSprop:
    """RMSprop (Hinton 2012), not centred."""

    momentum: float = 0.0
    """Share of the last direction that is kept."""
    weight_decay: float = 0.0
    """Added to the gradient, times the parameters."""
    alpha: float = 0.99
    """Decay of the mean of squared gradients."""
    eps: float = 1e-8
    """Added to the root of the mean of squares."""

    def __post_init__(self) -> None:
        not_negative(self, "momentum", "weight_decay", "alpha", "eps")

    def init(self, params: Tensors) -> RMSpropState:
        """Means of nothing, so far."""
        return RMSpropState(zeros_like(params), zeros_like(params) if self.momentum else {})

    def update(
        self, params: Tensors, grads: Tensors, losses: Tensor, state: RMSpropState, rate: float | Tensor
    ) -> tuple[Tensors, RMSpropState]:
        """See `Optimizer`."""
        for name, param in params.items():
            own_rate, grad = per_network(rate, param), with_decay(grads[name], param, self.weight_decay)
            square = state.square[name].mul_(self.alpha).addcmul_(grad, grad, value=1 - self.alpha)
            denominator = square.sqrt().add_(self.eps)
            if self.momentum:
                descend(param, state.buffer[name].mul_(self.momentum).addcdiv_(grad, denominator), own_rate)
            else:
                descend_ratio(param, grad, denominator, own_rate)
        return params, state


def not_negative(settings: object, *names: str) -> None:
    """Refuse settings below 0, and NaN, by name; those of each network too."""
    for name in names:
        value = getattr(settings, name)
        if not all(each >= 0 for each in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{name} must not be negative, got {value}")


def zeros_like(params: Tensors) -> Tensors:
    """Zeros of the same shapes, dtypes and devices."""
    return {name: param.new_zeros(param.shape) for name, param in params.items()}


def with_decay(grad: Tensor, param: Tensor, weight_decay: float) -> Tensor:
    """Add weight decay to a gradient in place."""
    return grad.add_(param, alpha=weight_decay) if weight_decay else grad


def descend(param: Tensor, direction: Tensor, rate: float | Tensor) -> None:
    """Subtract `rate` times `direction` (B, ...) from `param` (B, ...) in place; see `per_network`."""
    if isinstance(rate, int | float):
        param.sub_(direction, alpha=rate)
    else:
        param.addcmul_(direction, rate, value=-1)


def descend_ratio(param: Tensor, numerator: Tensor, denominator: Tensor, rate: float | Tensor) -> None:
    """Subtract `rate` times `numerator` / `denominator`, both (B, ...), from `param` (B, ...) in place.

    `denominator` is used up.
    """
    if isinstance(rate, int | float):
        param.addcdiv_(numerator, denominator, value=-rate)
    else:
        param.addcdiv_(numerator, denominator.div_(rate), value=-1)


def each_network(setting: float | tuple[float, ...], like: Tensor) -> float | Tensor:
    """A setting of all networks as it is, and one for each of them as (B,), of the dtype and device of a tensor."""
    return like.new_tensor(setting) if isinstance(setting, tuple) else setting


def per_network(rate: float | Tensor, param: Tensor) -> float | Tensor:
    """Shape rates (B,) so that they broadcast over `param` (B, ...); a float stays as it is."""
    return rate if isinstance(rate, int | float) else rate.view(-1, *(1,) * (param.dim() - 1))
