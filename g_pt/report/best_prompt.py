"""Prompts over the attainable range, and the best of them by the validation split."""

from __future__ import annotations

import torch
from torch import Tensor

from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.prompting import measure_updates, update_networks


def choose_prompt(
    pipeline: ParameterUpdatePipeline,
    prompts: Tensor,
    num_networks: int,
    generator: torch.Generator,
    num_inference_steps: int | None = None,
) -> float:
    """The prompt (K,) whose updates of fresh networks have the best mean metric on the validation split."""
    starts = pipeline.task.init(num_networks, generator)
    updated = update_networks(pipeline, starts, prompts, num_inference_steps=num_inference_steps, generator=generator)
    achieved = measure_updates(pipeline.task, updated, "validation")[pipeline.metric.name].mean(dim=0)
    return prompts[int(pipeline.metric.argbest(achieved))].item()
