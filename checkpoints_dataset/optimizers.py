"""Optimizers for B networks at once: every operation acts on stacked tensors (B, ...), entry by entry.

Each follows PyTorch's optimizer of the same name, so that B stacked runs equal B runs one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class StackedSGD:
    """`torch.optim.SGD` with (Nesterov) momentum and coupled weight decay."""

    momentum: float
    weight_decay: float
    nesterov: bool = True
    buffer: Tensor | None = field(default=None, init=False)

    @torch.no_grad()
    def step(self, params: Tensor, grads: Tensor, learning_rate: float) -> None:
        """Update `params` (B, ...) in place; `grads` (B, ...) is used up."""
        grads.add_(params, alpha=self.weight_decay)
        if self.buffer is None:
            self.buffer = grads.clone()
        else:
            self.buffer.mul_(self.momentum).add_(grads)
        if self.nesterov:
            params.sub_(grads.add_(self.buffer, alpha=self.momentum), alpha=learning_rate)
        else:
            params.sub_(self.buffer, alpha=learning_rate)


@dataclass
class StackedAdam:
    """`torch.optim.Adam`, or `AdamW` with `decoupled` weight decay; betas 0.9 and 0.999, eps 1e-8."""

    weight_decay: float
    decoupled: bool = False
    num_steps: int = field(default=0, init=False)
    mean: Tensor | None = field(default=None, init=False)
    square: Tensor | None = field(default=None, init=False)

    @torch.no_grad()
    def step(self, params: Tensor, grads: Tensor, learning_rate: float) -> None:
        """Update `params` (B, ...) in place; `grads` (B, ...) is used up."""
        b1, b2, eps = 0.9, 0.999, 1e-8
        if self.mean is None or self.square is None:
            self.mean, self.square = torch.zeros_like(params), torch.zeros_like(params)
        if self.decoupled:
            params.mul_(1 - learning_rate * self.weight_decay)
        else:
            grads.add_(params, alpha=self.weight_decay)
        self.num_steps += 1
        self.mean.lerp_(grads, 1 - b1)
        self.square.mul_(b2).addcmul_(grads, grads, value=1 - b2)
        denominator = (self.square / (1 - b2**self.num_steps)).sqrt_().add_(eps)
        params.addcdiv_(self.mean, denominator, value=-learning_rate / (1 - b1**self.num_steps))


StackedOptimizer = StackedSGD | StackedAdam

# name -> constructor from (momentum, weight decay)
OPTIMIZERS: dict[str, Callable[[float, float], StackedOptimizer]] = {
    "nesterov": lambda momentum, weight_decay: StackedSGD(momentum, weight_decay, nesterov=True),
    "sgd": lambda momentum, weight_decay: StackedSGD(momentum, weight_decay, nesterov=False),
    "adam": lambda momentum, weight_decay: StackedAdam(weight_decay),
    "adamw": lambda momentum, weight_decay: StackedAdam(weight_decay, decoupled=True),
}


def make_optimizer(name: str, *, momentum: float, weight_decay: float) -> StackedOptimizer:
    """Make an optimizer by name; the error lists what exists."""
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {sorted(OPTIMIZERS)}, got {name!r}")
    return OPTIMIZERS[name](momentum, weight_decay)
