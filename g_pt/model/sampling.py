"""The sampler: from noise to the normalised parameters of updated networks, step by step.

B = networks, P = parameters per network.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from g_pt.model.schedulers import first_noise, model_input, set_sampling_timesteps
from g_pt.tasks.base import Task

Generators = torch.Generator | list[torch.Generator]
# (number of the step, its time, x after it) -> x to go on with
OnStep = Callable[[int, Tensor, Tensor], Tensor]


class Condition(NamedTuple):
    """What an update depends on beside the noise.

    Attributes:
        x_start: (B, P), normalised start parameters.
        starting_metric: (B,), raw, of the start.
        prompted_metric: (B,), raw, asked for.
    """

    x_start: Tensor
    starting_metric: Tensor
    prompted_metric: Tensor


def sample(
    model: Callable[..., Tensor],
    scheduler: Any,
    condition: Condition,
    noise: Tensor,
    num_steps: int,
    *,
    gradient_steps: int = 0,
    generator: Generators | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Sample updates, differentiable through the last steps.

    Args:
        model: (x_t, t, x_start, starting_metric, prompted_metric) to what the scheduler expects.
        scheduler: of diffusers; see `g_pt.model.schedulers`.
        condition: of each network.
        noise: (B, P), standard normal.
        num_steps: sampling steps.
        gradient_steps: last calls of the model through which the gradient flows; none by default.
        generator: of the noise that a stochastic sampler adds, or one for each network.
        on_step: called after each step.

    Returns:
        x_0, (B, P), normalised, in the precision of the noise.

    Raises:
        ValueError: see `set_sampling_timesteps`.
    """
    set_sampling_timesteps(scheduler, num_steps, noise.device)
    random = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    x_t = first_noise(scheduler, noise)  # (B, P)
    first_with_gradient = len(scheduler.timesteps) - gradient_steps
    for i, t in enumerate(scheduler.timesteps):
        if i == first_with_gradient:
            # below PyTorch 2.11 autocast would use its copies of the weights from the steps without gradient again
            torch.clear_autocast_cache()
        with torch.set_grad_enabled(i >= first_with_gradient):
            scaled = model_input(scheduler, x_t, t)  # (B, P)
            predicted = model(scaled, t.expand(len(x_t)), *condition)  # (B, P): x_0, v or noise - x_0
            x_t = scheduler.step(predicted.to(x_t.dtype), t, x_t, **random).prev_sample  # (B, P)
        if on_step is not None:
            x_t = on_step(i, t, x_t)  # (B, P)
    return x_t


def finish_updates(task: Task, updated: Tensor, starts: Tensor) -> Tensor:
    """Networks as an update leaves them: sampled (B, P) and starts (B, P), both raw, to (B, P).

    What training does not move is as it was at the start; running statistics are estimated anew.
    """
    if task.constant_names:
        updated = updated.clone()
    for name in task.constant_names:
        part = task.layout.slices[name]
        updated[:, part] = starts[:, part]
    return task.recalibrate(updated)
