"""The reference's Cartpole policies: its network and initialisation. Its simulator, IsaacGym, is not available.

IsaacGym is closed, needs a GPU and a Python of 3.8 or older; no simulator here gives the same returns, and none is
passed off as it. Networks can be made, converted and updated; their returns cannot be measured.

B = networks, N = observations.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from g_pt.networks.metrics import Metric
from g_pt.permutations import PermutationSpec
from g_pt.runtime.seeds import seeded_global_generator
from g_pt.tasks.base import Split, Task

NUM_OBSERVATIONS, WIDTH, NUM_ACTIONS = 4, 32, 1
RETURN = Metric("return", unit="return", minimize=False)
LAYERS = ((0, NUM_OBSERVATIONS, WIDTH, 2**0.5), (2, WIDTH, WIDTH, 2**0.5), (4, WIDTH, NUM_ACTIONS, 0.01))


class CartpoleActor(nn.Module):
    """Gaussian policy 4-32-32-1 with SELU: mean of the action from (cart position and velocity, angle and its rate).

    1,250 parameters; `log_std` comes first in the flat vector, since a module's own parameters precede its children's.
    The standard deviation of the reference's actions is exp(2 log_std), not exp(log_std): it hands the variance on
    where a Cholesky factor is wanted (train_rl.py:136-137, 249-250, 274-275), and its policies were trained with that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(NUM_ACTIONS))
        self.actor = nn.Sequential(
            nn.Linear(NUM_OBSERVATIONS, WIDTH), nn.SELU(), nn.Linear(WIDTH, WIDTH), nn.SELU(),
            nn.Linear(WIDTH, NUM_ACTIONS),
        )  # fmt: skip

    def forward(self, observations: Tensor) -> Tensor:
        """(N, 4) to the mean action (N, 1)."""
        mean: Tensor = self.actor(observations)
        return mean


class ReferenceCartpole(Task):
    """Networks of the reference's Cartpole data set; metric `return` (0 to 500), which cannot be measured here."""

    name = "reference-cartpole"
    metrics: Mapping[str, Metric] = {"return": RETURN}

    def network(self) -> CartpoleActor:
        """A fresh actor: orthogonal weights as in the reference, default biases, log_std 0."""
        actor = CartpoleActor()
        for place, _, _, gain in LAYERS:
            nn.init.orthogonal_(actor.actor[place].weight, gain)  # type: ignore[arg-type]
        return actor

    @cached_property
    def permutations(self) -> PermutationSpec:
        """The units of both hidden layers can be reordered."""
        with seeded_global_generator(0):
            return PermutationSpec.from_module(self.network(), input_shape=(NUM_OBSERVATIONS,))

    def init(self, num_networks: int, generator: torch.Generator) -> Tensor:
        """Parameters (B, 1250) of modules made one by one; the global generator stays as it was."""
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        with seeded_global_generator(seed):
            return torch.stack([self.layout.flatten(self.network().state_dict()) for _ in range(num_networks)])

    def evaluate(self, params: Tensor, split: Split = "test") -> dict[str, Tensor]:
        """Refuse: the returns of the reference are IsaacGym's.

        Raises:
            ValueError: always; the message says what to do.
        """
        raise ValueError(
            "the return of a reference Cartpole policy is measured in IsaacGym, which is not available (closed, GPU "
            "only, Python 3.8 or older), and no other simulator gives the same numbers. Sample in Python with the "
            "starting return passed in: pipeline(params, prompted_metric=500, starting_metric=20), and measure the "
            "result where IsaacGym runs"
        )
