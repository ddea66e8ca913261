"""Policies that are MLPs: the same class as any other policy, and faster.

B = policies, N = observations of each, O = size of one, K = outputs of a policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from rl_tasks.distributions import Gaussian
from rl_tasks.policies import mlp_network, stacked_forward, stacked_init
from rl_tasks.task import GymnasiumTask


class MLPPolicyTask(GymnasiumTask):
    """Policies of tanh layers; a task adds widths, the environment, and a batched simulator where there is one.

    Continuous actions have as many standard deviations, which do not depend on the observation.
    """

    widths: ClassVar[tuple[int, ...]]
    initial_log_std: ClassVar[float] = 0.0

    def network(self) -> nn.Sequential:
        """A fresh `fc1`, tanh, `fc2`, ..., for continuous actions with a `gaussian` head."""
        gaussian = isinstance(self.facts.distribution, Gaussian)
        return mlp_network(self.widths, gaussian=gaussian, initial_log_std=self.initial_log_std)

    def init(self, num_networks: int, generator: torch.Generator) -> Tensor:
        """PyTorch's default initialisation."""
        return stacked_init(self.layout, num_networks, generator, self.initial_log_std)

    def forward(self, tensors: Mapping[str, Tensor], observations: Tensor) -> Tensor:
        """Outputs of B policies, each on its own observations: (B, N, O) to (B, N, K)."""
        return stacked_forward(tensors, observations)
