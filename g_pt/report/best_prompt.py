"""The prompts a section asks for: those over the attainable range, and the best of them by the validation split."""

from __future__ import annotations

import torch
from torch import Tensor

from g_pt.model.prompting import measure_updates, prompt_grid, update_networks
from g_pt.report.section import Subject

NETWORKS = 64


def attainable_prompts(subject: Subject, num_prompts: int) -> Tensor:
    """Evenly spaced prompts from the runs' best metric to that of an init: (K,), raw.

    Raises:
        ValueError: the pipeline does not know its attainable range.
    """
    training = subject.pipeline.config.training
    if "attainable_range" not in training:
        raise ValueError(f"{subject.model} does not say the attainable_range of its training data")
    first, last = training["attainable_range"]
    return prompt_grid(first, last, num_prompts)


def best_prompt(subject: Subject, generator: torch.Generator) -> float:
    """The best of `num_prompts` prompts over the attainable range, on at most 64 fresh networks.

    Raises:
        ValueError: the pipeline does not know its attainable range.
    """
    pipeline = subject.pipeline
    prompts = attainable_prompts(subject, subject.num_prompts)
    starts = pipeline.task.init(min(NETWORKS, subject.num_networks), generator)
    updated = update_networks(
        pipeline, starts, prompts, num_inference_steps=subject.num_inference_steps, generator=generator
    )
    achieved = measure_updates(pipeline.task, updated, "validation")[pipeline.metric.name].mean(dim=0)
    return prompts[int(pipeline.metric.argbest(achieved))].item()
