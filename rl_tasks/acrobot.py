"""Acrobot-v1: swing the tip of two links above a line by a torque at their joint; -1 per step, 500 at most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from rl_tasks.mlp_policy_task import MLPPolicyTask
from rl_tasks.simulators import Simulator

GRAVITY, SECONDS = 9.8, 0.2
CENTER, INERTIA = 0.5, 1.0  # of each link, whose length and mass are 1
MAX_SPEEDS = (4 * math.pi, 9 * math.pi)


class AcrobotSimulator(Simulator):
    """States are two angles and their velocities; one Runge-Kutta step of order 4, as Gymnasium takes it."""

    start_bounds = (0.1, 0.1, 0.1, 0.1)

    def stored(self, states: Tensor) -> Tensor:
        """Start states are float32 in Gymnasium."""
        return states.float().double()

    def observe(self, states: Tensor) -> Tensor:
        """Cosine and sine of both angles, velocities."""
        first, second, first_dot, second_dot = states.unbind(-1)
        return torch.stack(
            [first.cos(), first.sin(), second.cos(), second.sin(), first_dot, second_dot], dim=-1
        ).float()

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take a torque of -1, 0 or 1, as action 0, 1 or 2, in each state."""
        torque = actions.double() - 1
        k1 = derivative(states, torque)
        k2 = derivative(states + SECONDS / 2 * k1, torque)
        k3 = derivative(states + SECONDS / 2 * k2, torque)
        k4 = derivative(states + SECONDS * k3, torque)
        after = states + SECONDS / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        first, second = (wrapped(angle) for angle in after.unbind(-1)[:2])
        speeds = [after[..., 2 + i].clamp(-fastest, fastest) for i, fastest in enumerate(MAX_SPEEDS)]
        reached = -first.cos() - (second + first).cos() > 1.0
        return torch.stack([first, second, *speeds], dim=-1), -(~reached).double(), reached


def derivative(states: Tensor, torque: Tensor) -> Tensor:
    """Velocities and accelerations (..., 4)."""
    first, second, first_dot, second_dot = states.unbind(-1)
    cos, sin = second.cos(), second.sin()
    d1 = CENTER**2 + (1 + CENTER**2 + 2 * CENTER * cos) + 2 * INERTIA
    d2 = CENTER**2 + CENTER * cos + INERTIA
    phi2 = CENTER * GRAVITY * (first + second - math.pi / 2).cos()
    phi1 = (
        -CENTER * second_dot.square() * sin
        - 2 * CENTER * second_dot * first_dot * sin
        + (CENTER + 1) * GRAVITY * (first - math.pi / 2).cos()
        + phi2
    )
    second_acc = torque + d2 / d1 * phi1 - CENTER * first_dot.square() * sin - phi2
    second_acc = second_acc / (CENTER**2 + INERTIA - d2.square() / d1)
    return torch.stack([first_dot, second_dot, -(d2 * second_acc + phi1) / d1, second_acc], dim=-1)


def wrapped(angle: Tensor) -> Tensor:
    """The same angle between -pi and pi."""
    turns = torch.where(angle > math.pi, -torch.ceil((angle - math.pi) / (2 * math.pi)), torch.zeros_like(angle))
    turns = torch.where(angle < -math.pi, torch.ceil((-math.pi - angle) / (2 * math.pi)), turns)
    return angle + turns * 2 * math.pi


class Acrobot(MLPPolicyTask):
    """Policies 6-32-32-3 with 1,379 parameters."""

    name = "acrobot"
    environment_id = "Acrobot-v1"
    widths: ClassVar[tuple[int, ...]] = (6, 32, 32, 3)
    simulator = AcrobotSimulator()
    harvest_defaults: Mapping[str, Any] = {"num_runs": 200, "num_steps": 200, "num_checkpoints": 41}
