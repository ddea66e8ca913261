"""The loss of the first stage at each step, which the second stage adds to its own.

B = pairs of this process, P = parameters per network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from g_pt.model.diffusion import Objective, diffusion_loss
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.schedulers import training_schedule
from g_pt.runtime.seeds import keyed_generator
from g_pt.training.setup import NOISE_STREAM, PairSource, process_share


class DenoisingLoss:
    """Error of the model on noised pairs; (model as Accelerate prepared it, step) to a scalar."""

    def __init__(
        self,
        pipeline: ParameterUpdatePipeline,
        pairs: PairSource,
        objective: Callable[[int], Objective],
        accelerator: Accelerator,
        *,
        batch_size: int,
        seed: int,
        first_step: int = 0,
    ) -> None:
        """Prepare.

        Args:
            pipeline: has the normalizer and the noise schedule.
            pairs: of any step.
            objective: of any step.
            accelerator: of this process.
            batch_size: pairs of a step over all processes.
            seed: of the noise.
            first_step: pairs and noise of step i are those of step first_step + i.
        """
        self.normalizer, self.pairs, self.objective = pipeline.normalizer, pairs, objective
        self.device = accelerator.device
        self.share = process_share(batch_size, accelerator)
        self.schedule = training_schedule(pipeline.scheduler.config).to(self.device)
        self.size, self.num_params = batch_size, pipeline.layout.num_params
        self.seed, self.first_step = seed, first_step

    def __call__(self, model: nn.Module, step: int) -> Tensor:
        """The loss of a step: a scalar."""
        step += self.first_step
        batch = self.pairs(step, self.share).to(self.device)
        timesteps, noise = (
            drawn[self.share].to(self.device)
            for drawn in draw_noise(self.seed, step, len(self.schedule), (self.size, self.num_params))
        )  # (B,), (B, P)
        return diffusion_loss(model, self.normalizer, batch, timesteps, noise, self.schedule, self.objective(step))


def draw_noise(seed: int, step: int, num_timesteps: int, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Diffusion times (size,) and noise (size, P) of a step for the global batch, so that any split of it agrees."""
    generator = keyed_generator(seed, step, NOISE_STREAM)
    timesteps = torch.randint(num_timesteps, shape[:1], generator=generator)
    return timesteps, torch.randn(shape, generator=generator)
