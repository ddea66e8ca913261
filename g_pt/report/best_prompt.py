"""The prompt at which a model's updates are best, by the validation split."""

from __future__ import annotations

import torch

from g_pt.prompting import measure_updates, prompt_grid, update_networks
from g_pt.report.section import Subject

NETWORKS = 64


def best_prompt(subject: Subject, generator: torch.Generator) -> float:
    """The best of `num_prompts` prompts over the attainable range, on at most 64 fresh networks.

    Raises:
        ValueError: the pipeline does not know its attainable range.
    """
    pipeline = subject.pipeline
    if "attainable_range" not in pipeline.config.training:
        raise ValueError(f"{subject.model} does not say the attainable_range of its training data")
    best, worst = pipeline.config.training["attainable_range"]
    prompts = prompt_grid(best, worst, subject.num_prompts)
    starts = pipeline.task.init(min(NETWORKS, subject.num_networks), generator)
    updated = update_networks(
        pipeline, starts, prompts, num_inference_steps=subject.num_inference_steps, generator=generator
    )
    achieved = measure_updates(pipeline.task, updated, "validation")[pipeline.metric.name].mean(dim=0)
    return prompts[int(pipeline.metric.argbest(achieved))].item()
