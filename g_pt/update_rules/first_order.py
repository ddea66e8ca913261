"""Optimizers for B networks at once: every operation acts on stacked tensors (B, ...), entry by entry.

Each follows PyTorch's optimizer of the same name, so that B stacked runs equal B runs one by one. Every `step` takes
one learning rate for all networks, a float, or one per network, a tensor (B,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from g_pt.tasks.base import TrainableTask


@dataclass
class StackedSGD:
    """`torch.optim.SGD` with (Nesterov) momentum and coupled weight decay."""

    momentum: float
    weight_decay: float
    nesterov: bool = True
    buffer: Tensor | None = field(default=None, init=False)

    @torch.no_grad()
    def step(self, params: Tensor, grads: Tensor, learning_rate: float | Tensor) -> None:
        """Update `params` (B, ...) in place; `grads` (B, ...) is used up."""
        rate = per_network(learning_rate, params)
        grads.add_(params, alpha=self.weight_decay)
        if self.buffer is None:
            self.buffer = grads.clone()
        else:
            self.buffer.mul_(self.momentum).add_(grads)
        descend(params, grads.add_(self.buffer, alpha=self.momentum) if self.nesterov else self.buffer, rate)


@dataclass
class StackedAdam:
    """`torch.optim.Adam`, or `AdamW` with `decoupled` weight decay; betas 0.9 and 0.999, eps 1e-8."""

    weight_decay: float
    decoupled: bool = False
    num_steps: int = field(default=0, init=False)
    mean: Tensor | None = field(default=None, init=False)
    square: Tensor | None = field(default=None, init=False)

    @torch.no_grad()
    def step(self, params: Tensor, grads: Tensor, learning_rate: float | Tensor) -> None:
        """Update `params` (B, ...) in place; `grads` (B, ...) is used up."""
        rate, b1, b2, eps = per_network(learning_rate, params), 0.9, 0.999, 1e-8
        if self.mean is None or self.square is None:
            self.mean, self.square = torch.zeros_like(params), torch.zeros_like(params)
        if self.decoupled:
            params.mul_(1 - rate * self.weight_decay)
        else:
            grads.add_(params, alpha=self.weight_decay)
        self.num_steps += 1
        self.mean.lerp_(grads, 1 - b1)
        self.square.mul_(b2).addcmul_(grads, grads, value=1 - b2)
        denominator = (self.square / (1 - b2**self.num_steps)).sqrt_().add_(eps)
        descend_ratio(params, self.mean, denominator, rate / (1 - b1**self.num_steps))


@dataclass
class StackedRMSprop:
    """`torch.optim.RMSprop` with momentum and coupled weight decay; alpha 0.99, eps 1e-8, not centered."""

    momentum: float
    weight_decay: float
    square: Tensor | None = field(default=None, init=False)
    buffer: Tensor | None = field(default=None, init=False)

    @torch.no_grad()
    def step(self, params: Tensor, grads: Tensor, learning_rate: float | Tensor) -> None:
        """Update `params` (B, ...) in place; `grads` (B, ...) is used up."""
        rate, alpha, eps = per_network(learning_rate, params), 0.99, 1e-8
        if self.square is None or self.buffer is None:
            self.square, self.buffer = torch.zeros_like(params), torch.zeros_like(params)
        grads.add_(params, alpha=self.weight_decay)
        self.square.mul_(alpha).addcmul_(grads, grads, value=1 - alpha)
        denominator = self.square.sqrt().add_(eps)
        if self.momentum > 0:
            descend(params, self.buffer.mul_(self.momentum).addcdiv_(grads, denominator), rate)
        else:
            descend_ratio(params, grads, denominator, rate)


def descend(params: Tensor, direction: Tensor, learning_rate: float | Tensor) -> None:
    """Subtract `learning_rate` times `direction` (B, ...) from `params` (B, ...) in place; see `per_network`."""
    if isinstance(learning_rate, Tensor):
        params.addcmul_(direction, learning_rate, value=-1)
    else:
        params.sub_(direction, alpha=learning_rate)


def descend_ratio(params: Tensor, numerator: Tensor, denominator: Tensor, learning_rate: float | Tensor) -> None:
    """Subtract `learning_rate` times `numerator` / `denominator`, both (B, ...), from `params` (B, ...) in place.

    `denominator` is used up.
    """
    if isinstance(learning_rate, Tensor):
        params.addcdiv_(numerator, denominator.div_(learning_rate), value=-1)
    else:
        params.addcdiv_(numerator, denominator, value=-learning_rate)


def per_network(learning_rate: float | Tensor, params: Tensor) -> float | Tensor:
    """Shape rates (B,) so that they broadcast over `params` (B, ...); a float stays what it is."""
    return learning_rate.view(-1, *(1,) * (params.dim() - 1)) if isinstance(learning_rate, Tensor) else learning_rate


StackedOptimizer = StackedSGD | StackedAdam | StackedRMSprop

# name -> constructor from (momentum, weight decay)
OPTIMIZERS: dict[str, Callable[[float, float], StackedOptimizer]] = {
    "nesterov": lambda momentum, weight_decay: StackedSGD(momentum, weight_decay, nesterov=True),
    "sgd": lambda momentum, weight_decay: StackedSGD(momentum, weight_decay, nesterov=False),
    "adam": lambda momentum, weight_decay: StackedAdam(weight_decay),
    "adamw": lambda momentum, weight_decay: StackedAdam(weight_decay, decoupled=True),
    "rmsprop": StackedRMSprop,
}


def make_optimizer(name: str, *, momentum: float, weight_decay: float) -> StackedOptimizer:
    """Make an optimizer by name; the error lists what exists."""
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {sorted(OPTIMIZERS)}, got {name!r}")
    return OPTIMIZERS[name](momentum, weight_decay)


def writable(grads: Sequence[Tensor | None], task: TrainableTask) -> list[Tensor]:
    """Contiguous gradients of which no two are the same memory, as they can be of `a + b`: optimizers write into them.

    Raises:
        ValueError: a tensor has no gradient.
    """
    own: list[Tensor] = []
    taken: set[int] = set()
    for name, grad in zip(task.trained_names, grads, strict=True):
        if grad is None:
            raise ValueError(
                f"{name!r} of task {task.name!r} has no part in the training loss: remove it from network(), or "
                "keep it as it is by requires_grad=False"
            )
        grad = grad.contiguous()
        own.append(grad.clone() if grad.data_ptr() in taken else grad)
        taken.add(grad.data_ptr())
    return own
