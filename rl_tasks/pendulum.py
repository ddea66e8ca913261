"""Pendulum-v1: swing a pendulum up and hold it with a limited torque; the return is minus the cost of 200 steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from g_pt.networks.metrics import Metric
from rl_tasks.mlp_policy_task import MLPPolicyTask
from rl_tasks.simulators import Simulator

GRAVITY, MAX_SPEED, MAX_TORQUE, SECONDS = 10.0, 8.0, 2.0, 0.05


class PendulumSimulator(Simulator):
    """States are the angle, 0 at the top, and its velocity; a rod of length 1 and mass 1."""

    start_bounds = (math.pi, 1.0)
    gradient_horizon = 20

    def observe(self, states: Tensor) -> Tensor:
        """Cosine, sine, velocity."""
        angle, velocity = states.unbind(-1)
        return torch.stack([angle.cos(), angle.sin(), velocity], dim=-1).float()

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take a torque (..., 1) in each state; nothing ends an episode."""
        angle, velocity = states.unbind(-1)
        torque = actions[..., 0].float().clamp(-MAX_TORQUE, MAX_TORQUE)  # products with it are float32 in Gymnasium too
        from_top = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        cost = from_top.square() + 0.1 * velocity.square() + 0.001 * torque.square()
        velocity = velocity + (3 * GRAVITY / 2 * angle.sin() + 3.0 * torque) * SECONDS
        velocity = velocity.clamp(-MAX_SPEED, MAX_SPEED)
        after = torch.stack([angle + velocity * SECONDS, velocity], dim=-1)
        return after, -cost, torch.zeros_like(cost, dtype=torch.bool)


class Pendulum(MLPPolicyTask):
    """Gaussian policies 3-32-32-1 with 1,218 parameters, the standard deviation one of them."""

    name = "pendulum"
    environment_id = "Pendulum-v1"
    widths: ClassVar[tuple[int, ...]] = (3, 32, 32, 1)
    # from about -1,600, the pendulum hangs or spins, to -150, it swings up and stays
    metrics: Mapping[str, Metric] = {"return": Metric("return", unit="return", minimize=False, scale=300.0)}
    simulator = PendulumSimulator()
    harvest_defaults: Mapping[str, Any] = {
        "num_runs": 400,
        "num_steps": 40,
        "num_checkpoints": 41,
        "runs_per_shard": 50,
        "ppo": {
            "learning_rate_range": (3e-3, 1.5e-2),
            "n_steps": 200,  # an episode
            "n_epochs": 10,
            "num_minibatches": 4,
            "gamma": 0.9,
            "ent_coef": 0.0,
        },
    }
