"""Optimizers for large mini-batches, whose steps are as long as the layers are large: LARS and LAMB.

Importing this file imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from g_pt.update_rules.first_order import Adam, AdamState, Momentum, descend, not_negative, per_network
from g_pt.update_rules.gradient import GradientRule

if TYPE_CHECKING:
    from torch import Tensor

    from g_pt.update_rules.base import Tensors


@dataclass(frozen=True)
class LARS(Momentum):
    """LARS (You et al. 2017): gradients as long as `trust` times the weights; biases and the like take them as is."""

    trust: float = 1e-3
    """Length of a step over that of the weights, at a learning rate of 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "trust")

    def update(
        self, params: Tensors, grads: Tensors, losses: Tensor, state: Tensors, rate: float | Tensor
    ) -> tuple[Tensors, Tensors]:
        """See `Optimizer`."""
        for name, param in params.items():
            direction = grads[name]
            if param.dim() > 2:  # neither biases nor the scales of normalisation
                size = norms(param)
                ratio = trust_ratio(self.trust * size, norms(direction) + self.weight_decay * size)
                direction = direction.add_(param, alpha=self.weight_decay).mul_(ratio)
            if self.momentum:
                direction = state[name].mul_(self.momentum).add_(direction)
            descend(param, direction, per_network(rate, param))
        return params, state


@dataclass(frozen=True)
class LAMB(Adam):
    """LAMB (You et al. 2020): steps of Adam as long as the weights of their tensor, times the learning rate."""

    weight_decay: float = 0.0
    """Added to the step of Adam, times the parameters."""
    eps: float = 1e-6
    """Added to the root of the mean of squares."""
    longest: float = 10.0
    """Largest length of a tensor that counts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "longest")

    def update(
        self, params: Tensors, grads: Tensors, losses: Tensor, state: AdamState, rate: float | Tensor
    ) -> tuple[Tensors, AdamState]:
        """See `Optimizer`."""
        num_steps = state.num_steps + 1
        for name, param in params.items():
            mean, denominator = self.moments(name, grads[name], state, num_steps)
            step = mean / (1 - self.beta1**num_steps) / denominator
            if self.weight_decay:
                step.add_(param, alpha=self.weight_decay)
            step.mul_(trust_ratio(norms(param).clamp(max=self.longest), norms(step)))
            descend(param, step, per_network(rate, param))
        return params, state._replace(num_steps=num_steps)


def norms(tensor: Tensor) -> Tensor:
    """Euclidean length of each network's tensor (B, ...), shaped to broadcast over it."""
    return tensor.flatten(1).norm(dim=1).view(-1, *(1,) * (tensor.dim() - 1))


def trust_ratio(wanted: Tensor, length: Tensor) -> Tensor:
    """`wanted` over `length`, and 1 where one of them is 0."""
    return (wanted / length).where((wanted != 0) & (length != 0), 1.0)


@dataclass(frozen=True)
class LARSRule(GradientRule):
    """Momentum with steps as long as the weights of a layer say."""

    optimizer: LARS = field(default_factory=LARS)
    learning_rate: float | tuple[float, ...] = 5.0
    tuned: ClassVar = {"learning_rate": (0.3, 100.0)}


@dataclass(frozen=True)
class LAMBRule(GradientRule):
    """Adam with steps as long as the weights of a layer say."""

    optimizer: LAMB = field(default_factory=LAMB)
    learning_rate: float | tuple[float, ...] = 0.02
    tuned: ClassVar = {"learning_rate": (1e-3, 1.0)}
