"""CartPole-v1: a pole on a cart, pushed left or right; one point per step, 500 at most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rl_tasks.mlp_policy_task import MLPPolicyTask
from rl_tasks.simulators import Simulator

GRAVITY, POLE_MASS, TOTAL_MASS, HALF_LENGTH, FORCE, SECONDS = 9.8, 0.1, 1.1, 0.5, 10.0, 0.02
VECTOR_ENVIRONMENTS = 4096  # at once
MAX_POSITION, MAX_ANGLE = 2.4, 12 * 2 * math.pi / 360


class CartPoleSimulator(Simulator):
    """States are cart position and velocity, pole angle and velocity; Euler steps as Gymnasium takes them."""

    start_bounds = (0.05, 0.05, 0.05, 0.05)

    def observe(self, states: Tensor) -> Tensor:
        """The state itself."""
        return states.float()

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Barto, Sutton and Anderson 1983, as corrected by Florian 2005."""
        x, x_dot, theta, theta_dot = states.unbind(-1)
        force = (actions * 2 - 1) * FORCE
        cos, sin = theta.cos(), theta.sin()
        push = (force + POLE_MASS * HALF_LENGTH * theta_dot.square() * sin) / TOTAL_MASS
        theta_acc = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4 / 3 - POLE_MASS * cos.square() / TOTAL_MASS))
        x_acc = push - POLE_MASS * HALF_LENGTH * theta_acc * cos / TOTAL_MASS
        x, theta = x + SECONDS * x_dot, theta + SECONDS * theta_dot
        after = torch.stack([x, x_dot + SECONDS * x_acc, theta, theta_dot + SECONDS * theta_acc], dim=-1)
        fallen = (x.abs() > MAX_POSITION) | (theta.abs() > MAX_ANGLE)
        return after, torch.ones_like(x), fallen


class CartPole(MLPPolicyTask):
    """Policies 4-32-32-2 with 1,282 parameters, the paper's hidden sizes."""

    name = "cartpole"
    environment_id = "CartPole-v1"
    widths: ClassVar[tuple[int, ...]] = (4, 32, 32, 2)
    simulator = CartPoleSimulator()
    harvest_defaults: Mapping[str, Any] = {
        "num_runs": 1000,
        "num_steps": 60,
        "num_checkpoints": 61,
        "runs_per_shard": 125,
    }

    def gymnasium_returns(self, params: Tensor, seeds: Sequence[int]) -> Tensor:
        """Returns in Gymnasium's own vector environment, from the start states of the seeds: (B, P) raw to (B, E).

        It steps all episodes as one array program. It draws all start states from one seed; they are replaced by those
        that `reset(seed=seed)` gives in CartPole-v1, so that every policy meets the same episodes.
        """
        starts, num = self.simulator.seeded_starts(seeds).numpy(), len(seeds)
        at_once = min(len(params), VECTOR_ENVIRONMENTS // num)
        returns = []
        for part in self._parts(params, max(1, at_once)):
            num_policies = len(next(iter(part.values())))
            envs = gymnasium.make_vec(self.environment_id, num_policies * num, vectorization_mode="vector_entry_point")
            seen, _ = envs.reset()
            envs.unwrapped.state = np.tile(starts.T, num_policies)  # type: ignore[attr-defined]
            seen = envs.unwrapped.state.T.astype(np.float32)  # type: ignore[attr-defined]
            gained, alive = np.zeros(len(seen)), np.ones(len(seen), dtype=bool)
            while alive.any():
                actions = self.act(part, torch.from_numpy(seen).view(num_policies, num, -1))
                seen, rewards, terminated, truncated, _ = envs.step(actions.flatten().numpy())
                gained += rewards * alive  # what has ended starts anew, and does not count
                alive &= ~(terminated | truncated)
            returns.append(torch.from_numpy(gained).view(num_policies, num))
        return torch.cat(returns)
