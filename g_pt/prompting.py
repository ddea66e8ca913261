"""Asking a G.pt for updates of many networks at many prompts.

B = networks, K = prompts, P = parameters per network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from g_pt.pipeline import ParameterUpdatePipeline
from g_pt.tasks.base import Split, Task

SAMPLING_BATCH = 512


def prompt_grid(first: float, last: float, num_prompts: int) -> Tensor:
    """Evenly spaced prompts, as in the paper: (K,)."""
    return torch.linspace(first, last, num_prompts)


def prompt_networks(
    pipeline: ParameterUpdatePipeline,
    task: Task,
    starting_params: Tensor,
    prompts: Tensor,
    *,
    split: Split = "test",
    num_inference_steps: int | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Give every network one update for every prompt and measure the results.

    Args:
        pipeline: samples the updates.
        task: measures them.
        starting_params: (B, P), raw.
        prompts: (K,), raw.
        split: that the achieved metrics are measured on.
        num_inference_steps: sampling steps.
        generator: of the sampling noise.

    Returns:
        `{metric: (B, K)}` achieved.
    """
    num_prompts = len(prompts)
    params = starting_params.repeat_interleave(num_prompts, dim=0)  # (B*K, P)
    wanted = prompts.repeat(len(starting_params))  # (B*K,)
    starting = task.evaluate(starting_params, "validation")[pipeline.metric.name].repeat_interleave(num_prompts)
    updated = [
        pipeline(p, w, s, num_inference_steps=num_inference_steps, generator=generator).params
        for p, w, s in zip(*(t.split(SAMPLING_BATCH) for t in (params, wanted, starting)), strict=True)
    ]
    achieved = task.evaluate(torch.cat(updated), split)
    return {name: values.view(-1, num_prompts) for name, values in achieved.items()}


def prompt_recursively(
    pipeline: ParameterUpdatePipeline,
    starting_params: Tensor,
    prompted_metric: float,
    num_updates: int,
    *,
    num_inference_steps: int | None = None,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Feed each result back as the next start with the same prompt: `num_updates` tensors (B, P), raw."""
    updates: list[Tensor] = []
    params = starting_params
    for _ in range(num_updates):
        output = pipeline(params, prompted_metric, num_inference_steps=num_inference_steps, generator=generator)
        params = output.params
        updates.append(params)
    return updates
