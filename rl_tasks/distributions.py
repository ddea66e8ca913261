"""Distributions of actions, given a policy's outputs.

Outputs, actions and noise have any leading axes; A = size of an action, K = number of outputs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


class ActionDistribution(ABC):
    """Distribution of actions given the outputs (..., K) of a policy."""

    num_outputs: int

    @abstractmethod
    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw the noise that `sample` takes, for actions of a leading shape."""

    @abstractmethod
    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Actions; the noise broadcasts over the outputs' leading axes, so that policies can share it."""

    @abstractmethod
    def mode(self, outputs: Tensor) -> Tensor:
        """The most probable actions."""

    @abstractmethod
    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Log-probability (density) of actions: (...)."""

    @abstractmethod
    def entropy(self, outputs: Tensor) -> Tensor:
        """Entropy in nats: (...)."""


@dataclass(frozen=True)
class Categorical(ActionDistribution):
    """Actions 0 to `num_outputs` - 1, int64, with logits as outputs."""

    num_outputs: int

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Uniform in [0, 1)."""
        return torch.rand(shape, generator=generator)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """The action whose part of the cumulative distribution holds the noise."""
        below = outputs.softmax(dim=-1).cumsum(dim=-1)[..., :-1]  # (..., K-1)
        return (noise[..., None] >= below).sum(dim=-1)

    def mode(self, outputs: Tensor) -> Tensor:
        """The action of the largest logit; the first of equal ones."""
        return outputs.argmax(dim=-1)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Log-softmax at the actions."""
        return F.log_softmax(outputs, dim=-1).gather(-1, actions[..., None])[..., 0]

    def entropy(self, outputs: Tensor) -> Tensor:
        """- sum p log p."""
        log_probs = F.log_softmax(outputs, dim=-1)
        return -(log_probs.exp() * log_probs).sum(dim=-1)


@dataclass(frozen=True)
class Gaussian(ActionDistribution):
    """Actions (..., A), float, with A means and A logarithms of standard deviations as outputs.

    Environments clip actions to their bounds; probabilities are those of the actions before that.
    """

    action_size: int

    @property
    def num_outputs(self) -> int:  # type: ignore[override]
        """2 A."""
        return 2 * self.action_size

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard normal."""
        return torch.randn(*shape, self.action_size, generator=generator)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Mean plus standard deviation times noise."""
        mean, log_std = outputs.chunk(2, dim=-1)
        return mean + log_std.exp() * noise

    def mode(self, outputs: Tensor) -> Tensor:
        """The means."""
        return outputs[..., : self.action_size]

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Sum of the log-densities of the A numbers."""
        mean, log_std = outputs.chunk(2, dim=-1)
        squared = ((actions - mean) / log_std.exp()).square()
        return -(0.5 * squared + log_std + 0.5 * math.log(2 * math.pi)).sum(dim=-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """Sum of log(std) + log(2 pi e) / 2."""
        log_std = outputs[..., self.action_size :]
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)
