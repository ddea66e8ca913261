"""Prompts over the attainable range, and the best of them by the validation split."""

from __future__ import annotations

import torch
from torch import Tensor

from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.prompting import measure_updates, prompt_grid, update_networks


def prompts_over_range(pipeline: ParameterUpdatePipeline, model: str, num_prompts: int) -> Tensor:
    """Evenly spaced prompts from the runs' best metric to that of an init: (K,), raw.

    Raises:
        ValueError: the pipeline does not know its attainable range.
    """
    training = pipeline.config.training
    if "attainable_range" not in training:
        raise ValueError(f"{model} does not say the attainable_range of its training data")
    first, last = training["attainable_range"]
    return prompt_grid(first, last, num_prompts)


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
