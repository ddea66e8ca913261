"""The short evaluation during training: do prompts move networks that no run started from?

And is the loss on runs that are not learned from still near that of the training runs, or has the model begun to
memorise? Are the samples as different from each other as trained networks are, or has it collapsed to one answer?
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation.statistics import prompt_alignment
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.prompting import measure_updates, update_networks
from g_pt.tasks.base import Task
from g_pt.training.config import ProgressConfig
from g_pt.training.held_out import HeldOut, measure_dispersion


class PromptProbe:
    """A few prompts on fresh inits, measured on the validation split: the test split stays unseen."""

    def __init__(
        self,
        task: Task,
        pipeline: ParameterUpdatePipeline,
        options: ProgressConfig,
        seed: int,
        held_out: Callable[[], HeldOut] | None = None,
    ) -> None:
        """`held_out` measures the pipeline on pairs of the validation split of runs."""
        self.task, self.pipeline, self.seed, self.held_out = task, pipeline, seed, held_out
        generator = torch.Generator().manual_seed(seed + 1_000_003)
        self.starts = task.init(options.num_networks, generator)
        self.prompts = pipeline.facts.prompts(options.num_prompts)  # the best one first

    def measure(self) -> dict[str, Any]:
        """Measure the values for the log.

        Returns:
            `prompts`, and `achieved` for each: the mean over the networks, with the ends `achieved_low` and
            `achieved_high` of the middle 90 %; `alignment`; and where there are held-out pairs, `held_out_loss`,
            `held_out_by_tensor` and `dispersion_ratio`: how far apart the networks sampled for the best prompt lie,
            over how far apart trained ones do.
        """
        generator = torch.Generator().manual_seed(self.seed)
        updated = update_networks(self.pipeline, self.starts, self.prompts, generator=generator)
        achieved = measure_updates(self.task, updated, "validation")[self.pipeline.metric.name]
        low, high = achieved.quantile(torch.tensor([0.05, 0.95]), dim=0)
        measured = {
            "prompts": self.prompts.tolist(),
            "achieved": achieved.mean(dim=0).tolist(),
            "achieved_low": low.tolist(),
            "achieved_high": high.tolist(),
            "alignment": prompt_alignment(self.prompts, achieved).mean().item(),
        }
        return measured | (self.on_held_out(updated[:, 0], self.held_out()) if self.held_out else {})

    def on_held_out(self, samples: Tensor, held_out: HeldOut) -> dict[str, Any]:
        """Errors on held-out pairs, and the spread of samples (N, P), raw, over that of trained networks."""
        measured = {"held_out_loss": held_out.loss, "held_out_by_tensor": held_out.by_tensor}
        if len(samples) < 2 or not held_out.dispersion:  # there is no spread of one
            return measured
        spread = measure_dispersion(self.pipeline.normalizer.normalize(samples))
        return {**measured, "dispersion_ratio": spread / held_out.dispersion}
