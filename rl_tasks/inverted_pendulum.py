"""InvertedPendulum-v5: the cart-pole of MuJoCo with continuous forces; one point per step, 1,000 at most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from g_pt.networks.metrics import Metric
from rl_tasks.mlp_policy_task import MLPPolicyTask


class InvertedPendulum(MLPPolicyTask):
    """Gaussian policies 4-32-32-1; needs the extra `mujoco`. The closest to the paper's continuous Cartpole."""

    name = "inverted-pendulum"
    environment_id = "InvertedPendulum-v5"
    widths: ClassVar[tuple[int, ...]] = (4, 32, 32, 1)
    # MuJoCo plays one episode at a time
    harvest_defaults: Mapping[str, Any] = {"num_runs": 60, "num_steps": 120, "num_checkpoints": 25}
    metrics: Mapping[str, Metric] = {"return": Metric("return", unit="return", minimize=False, scale=200.0)}
