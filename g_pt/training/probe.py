"""The short evaluation during training: do prompts move networks that no run started from?"""

from __future__ import annotations

from typing import Any

import torch

from g_pt.evaluation import prompt_alignment
from g_pt.pipeline import ParameterUpdatePipeline
from g_pt.prompting import measure_updates, prompt_grid, update_networks
from g_pt.tasks.base import Task
from g_pt.training.config import TrainConfig


class PromptProbe:
    """A few prompts on fresh inits, measured on the validation split: the test split stays unseen."""

    def __init__(self, config: TrainConfig, task: Task, pipeline: ParameterUpdatePipeline) -> None:
        self.config, self.task, self.pipeline = config, task, pipeline
        generator = torch.Generator().manual_seed(config.seed + 1_000_003)
        self.starts = task.init(config.progress.num_networks, generator)
        best, init = pipeline.config.training["attainable_range"]
        self.prompts = prompt_grid(best, init, config.progress.num_prompts)

    def measure(self) -> dict[str, Any]:
        """Mean achieved metric per prompt and the alignment."""
        generator = torch.Generator().manual_seed(self.config.seed)
        updated = update_networks(self.pipeline, self.starts, self.prompts, generator=generator)
        achieved = measure_updates(self.task, updated, "validation")[self.config.metric]
        return {
            "prompts": self.prompts.tolist(),
            "achieved": achieved.mean(dim=0).tolist(),
            "alignment": prompt_alignment(self.prompts, achieved).mean().item(),
        }
