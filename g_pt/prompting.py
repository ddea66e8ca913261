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


def update_networks(
    pipeline: ParameterUpdatePipeline,
    starting_params: Tensor,
    prompts: Tensor,
    *,
    num_inference_steps: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Give every network one update for every prompt: starts (B, P) and prompts (K,) to (B, K, P), all raw."""
    num_networks, num_prompts = len(starting_params), len(prompts)
    params = starting_params.repeat_interleave(num_prompts, dim=0)  # (B*K, P)
    starting = pipeline.task.evaluate(starting_params, "validation")[pipeline.metric.name]
    starting = starting.repeat_interleave(num_prompts)  # (B*K,)
    wanted = prompts.repeat(num_networks)  # (B*K,)
    updated = [
        pipeline(p, w, s, num_inference_steps=num_inference_steps, generator=generator).params
        for p, w, s in zip(*(t.split(SAMPLING_BATCH) for t in (params, wanted, starting)), strict=True)
    ]
    return torch.cat(updated).view(num_networks, num_prompts, -1)


def measure_updates(task: Task, updated: Tensor, split: Split) -> dict[str, Tensor]:
    """Metrics of networks (B, K, P) on a split: `{metric: (B, K)}`, on the CPU."""
    measured = task.evaluate(updated.flatten(0, 1), split)
    return {name: values.view(updated.shape[:2]).cpu() for name, values in measured.items()}


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
