"""Environments as functions of tensors: any number of policies x episodes is one step of one program.

Leading axes (...) are any; S = size of a state, O = of an observation, A = of an action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from gymnasium.utils.seeding import np_random
from torch import Tensor


class Simulator(ABC):
    """A Gymnasium environment rewritten in torch; a test holds it against the original, step by step.

    Start states are uniform between plus and minus `start_bounds`, as those of Gymnasium's classic control are.
    """

    start_bounds: Sequence[float]
    gradient_horizon: int | None = None
    """Steps through which the gradient of a reward flows back; None where `step` has none, as for choices."""

    def starts(self, num_episodes: int, generator: torch.Generator) -> Tensor:
        """Random start states: (num_episodes, S) float64."""
        bounds = torch.tensor(self.start_bounds, dtype=torch.float64)
        fractions = torch.rand(num_episodes, len(bounds), generator=generator, dtype=torch.float64)
        return self.stored((2 * fractions - 1) * bounds)

    def seeded_starts(self, seeds: Sequence[int]) -> Tensor:
        """The start states that `env.reset(seed=seed)` gives in Gymnasium: (seeds, S) float64."""
        bounds = torch.tensor(self.start_bounds, dtype=torch.float64).numpy()
        drawn = [torch.from_numpy(np_random(seed)[0].uniform(-bounds, bounds)) for seed in seeds]
        return self.stored(torch.stack(drawn))

    def stored(self, states: Tensor) -> Tensor:
        """Start states in the precision in which the environment keeps them, as float64."""
        return states

    @abstractmethod
    def observe(self, states: Tensor) -> Tensor:
        """Observe states (..., S): (..., O) float32."""

    @abstractmethod
    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take one action in each state.

        Args:
            states: (..., S) float64.
            actions: (...) int64, or (..., A) float, which are clipped to their bounds.

        Returns:
            Next states (..., S), rewards (...), and where the episode ends by itself (...); the time limit is
            no part of the simulator.
        """
