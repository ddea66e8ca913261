"""The short evaluation during training: do prompts move networks that no run started from?

And is the loss on runs that are not learned from still near that of the training runs, or has the model begun to
memorise?
"""

from __future__ import annotations

from typing import Any

import torch

from g_pt.diffusion import Objective, diffusion_loss
from g_pt.evaluation import prompt_alignment
from g_pt.pipeline import ParameterUpdatePipeline
from g_pt.prompting import measure_updates, prompt_grid, update_networks
from g_pt.seeds import keyed_generator
from g_pt.tasks.base import Task
from g_pt.training.config import TrainConfig
from g_pt.training.setup import HELD_OUT_STREAM, PairSource, scheduler_alphas

HELD_OUT_BATCHES = 4


class PromptProbe:
    """A few prompts on fresh inits, measured on the validation split: the test split stays unseen."""

    def __init__(
        self, config: TrainConfig, task: Task, pipeline: ParameterUpdatePipeline, held_out: PairSource | None = None
    ) -> None:
        """`held_out` gives pairs of the validation split of runs."""
        self.config, self.task, self.pipeline, self.held_out = config, task, pipeline, held_out
        generator = torch.Generator().manual_seed(config.seed + 1_000_003)
        self.starts = task.init(config.progress.num_networks, generator)
        best, init = pipeline.config.training["attainable_range"]
        self.prompts = prompt_grid(best, init, config.progress.num_prompts)

    def measure(self) -> dict[str, Any]:
        """Mean achieved metric per prompt, the alignment, and the loss on held-out runs."""
        generator = torch.Generator().manual_seed(self.config.seed)
        updated = update_networks(self.pipeline, self.starts, self.prompts, generator=generator)
        achieved = measure_updates(self.task, updated, "validation")[self.config.metric]
        measured = {
            "prompts": self.prompts.tolist(),
            "achieved": achieved.mean(dim=0).tolist(),
            "alignment": prompt_alignment(self.prompts, achieved).mean().item(),
        }
        return measured if self.held_out is None else {**measured, "held_out_loss": self.held_out_loss(self.held_out)}

    @torch.no_grad()
    def held_out_loss(self, pairs: PairSource) -> float:
        """Mean squared error of the prediction on pairs of held-out runs, always the same, with the same noise."""
        config, pipeline = self.config, self.pipeline
        device, size = pipeline.transformer.device, config.pairs.batch_size
        generator = keyed_generator(config.seed, HELD_OUT_STREAM)
        alphas_cumprod, losses = scheduler_alphas(config).to(device), []
        for step in range(HELD_OUT_BATCHES):
            timesteps = torch.randint(config.diffusion.num_train_timesteps, (size,), generator=generator).to(device)
            noise = torch.randn(size, self.task.layout.num_params, generator=generator).to(device)
            batch = pairs(step, slice(None)).to(device)
            loss = diffusion_loss(
                pipeline.transformer, pipeline.normalizer, batch, timesteps, noise, alphas_cumprod,
                Objective(config.model.prediction_type),
            )  # fmt: skip
            losses.append(loss.item())
        return sum(losses) / len(losses)
