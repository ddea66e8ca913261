"""Asking a G.pt for updates of many networks at many prompts.

B = networks, K = prompts, P = parameters per network.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from g_pt.model.pipeline import ParameterUpdatePipeline
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
    starting = pipeline.task.evaluate(starting_params, "validation")[pipeline.metric.name]
    params = starting_params[:, None].expand(-1, len(prompts), -1)  # (B, K, P)
    starting = starting[:, None].expand(-1, len(prompts))  # (B, K)
    return update_each(pipeline, params, prompts, starting, num_inference_steps, generator)


def update_each(
    pipeline: ParameterUpdatePipeline,
    params: Tensor,
    prompts: Tensor,
    starting: Tensor,
    num_inference_steps: int | None,
    generator: torch.Generator | None,
) -> Tensor:
    """One update of each network (B, K, P) for the prompt of its column (K,), given their metrics (B, K)."""
    wanted = prompts.expand(len(params), -1)  # (B, K)
    flat = (params.reshape(-1, params.shape[-1]), wanted.reshape(-1), starting.reshape(-1))
    updated = [
        pipeline(p, w, s, num_inference_steps=num_inference_steps, generator=generator).params
        for p, w, s in zip(*(t.split(SAMPLING_BATCH) for t in flat), strict=True)
    ]
    return torch.cat(updated).view(params.shape)


def update_repeatedly(
    pipeline: ParameterUpdatePipeline,
    starting_params: Tensor,
    prompts: Tensor,
    *,
    num_inference_steps: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """The networks (B, K, P) after 1, 2, ... updates without end: every result is the next start for its prompt.

    Starts (B, P) and prompts (K,), raw.
    """
    options = {"num_inference_steps": num_inference_steps, "generator": generator}
    params = update_networks(pipeline, starting_params, prompts, **options)  # type: ignore[arg-type]
    while True:
        yield params
        starting = measure_updates(pipeline.task, params, "validation")[pipeline.metric.name]
        params = update_each(pipeline, params, prompts, starting, num_inference_steps, generator)


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
    alpha: float = 1.0,
    num_inference_steps: int | None = None,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Feed each result back as the next start with the same prompt: `num_updates` tensors (B, P), raw.

    Raises:
        ValueError: `alpha`, of `accepted`, is no share.
    """
    check_alpha(alpha)
    updates: list[Tensor] = []
    params = starting_params
    for _ in range(num_updates):
        output = pipeline(params, prompted_metric, num_inference_steps=num_inference_steps, generator=generator)
        params = accepted(params, output.params, alpha)
        updates.append(params)
    return updates


def accepted(starts: Tensor, updated: Tensor, alpha: float) -> Tensor:
    """Starts moved towards their updates, (B, P): start + alpha (update - start), exactly the update where alpha is 1.

    Lookahead (Zhang et al. 2019) with an update as its fast weights: a soft acceptance of what may go too far.
    """
    return starts.lerp(updated.to(starts), alpha)


def check_alpha(alpha: float) -> None:
    """Refuse what is no share."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie between 0, no move, and 1, the whole update, got {alpha}")
