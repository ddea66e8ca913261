"""Environments in which many policies gather experience: every policy has as many, and ended episodes start again.

B = policies, E = environments of each, O = size of an observation, A = of an action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from rl_tasks.simulators import Simulator


@dataclass(frozen=True)
class Transition:
    """Outcome of one step in every environment.

    Attributes:
        reached: (B, E, O) observations of the states reached, before any new start: the value of a state at the
            time limit is estimated from them.
        observations: (B, E, O) to act on next; those of new episodes where the last one ended.
        rewards: (B, E).
        terminated: (B, E), the episode ended by itself: nothing follows.
        truncated: (B, E), it was cut off at the time limit: more would have followed.
    """

    reached: Tensor
    observations: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor


class Environments(ABC):
    """B x E environments, in which what happens to one policy depends on no other.

    Attributes:
        lost: `{policy: reason}` of those whose environments failed them.
    """

    lost: Mapping[int, str] = MappingProxyType({})

    @abstractmethod
    def reset(self) -> Tensor:
        """Start all episodes anew: observations (B, E, O), float32."""

    @abstractmethod
    def step(self, actions: Tensor) -> Transition:
        """Take an action in every environment: (B, E) int64 or (B, E, A) float."""


class SimulatedEnvironments(Environments):
    """A simulator with its time limit. Start states are drawn once for all policies."""

    def __init__(
        self, simulator: Simulator, num_policies: int, num_envs: int, max_episode_steps: int, generator: torch.Generator
    ) -> None:
        self.simulator, self.max_episode_steps, self.generator = simulator, max_episode_steps, generator
        self.num_policies, self.num_envs = num_policies, num_envs

    def reset(self) -> Tensor:
        """Start all episodes anew."""
        self.states = self._starts().clone()
        self.age = torch.zeros(self.num_policies, self.num_envs, dtype=torch.int64)
        return self.simulator.observe(self.states)

    def step(self, actions: Tensor) -> Transition:
        """Take an action in every environment."""
        states, rewards, terminated = self.simulator.step(self.states, actions)
        self.age += 1
        truncated = self.age >= self.max_episode_steps
        ended = terminated | truncated
        reached = self.simulator.observe(states)
        self.states = torch.where(ended[..., None], self._starts(), states)  # drawn whether needed or not
        self.age.masked_fill_(ended, 0)
        return Transition(reached, self.simulator.observe(self.states), rewards.float(), terminated, truncated)

    def _starts(self) -> Tensor:
        starts = self.simulator.starts(self.num_envs, self.generator)  # (E, S)
        return starts.expand(self.num_policies, -1, -1)
