"""The reference's noise schedule and its deterministic sampler, as a diffusers scheduler.

Diffusers' own DDIM takes steps of equal length, `num_train_timesteps // num_inference_steps`; the reference spreads its
steps from the first to the last timestep, both included, and goes from each to the next one. Both agree where every
timestep is taken.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

# diffusers looks base-class names up in the module that defines a component: SchedulerMixin must be a name here
from diffusers import DDIMScheduler, SchedulerMixin
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

NUM_TRAIN_TIMESTEPS, BETA_START, BETA_END = 1000, 1e-4, 0.02


@cache
def reference_alphas_cumprod(
    num_train_timesteps: int = NUM_TRAIN_TIMESTEPS, beta_start: float = BETA_START, beta_end: float = BETA_END
) -> Tensor:
    """Products of 1 - beta_t for betas rising linearly: (num_train_timesteps,) float64, as the reference has them."""
    betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)
    return torch.cumprod(1 - betas, dim=0)


def respaced_timesteps(num_train_timesteps: int, num_inference_steps: int) -> list[int]:
    """Timesteps from the first to the last, both included, rising; one step starts at the last.

    Raises:
        ValueError: there are fewer timesteps than steps, or no step.
    """
    if not 1 <= num_inference_steps <= num_train_timesteps:
        raise ValueError(f"num_inference_steps must lie in 1 to {num_train_timesteps}, got {num_inference_steps}")
    if num_inference_steps == 1:
        return [num_train_timesteps - 1]
    stride = (num_train_timesteps - 1) / (num_inference_steps - 1)
    return [round(i * stride) for i in range(num_inference_steps)]


class RespacedDDIMScheduler(DDIMScheduler, SchedulerMixin):
    """DDIM without noise (eta 0) over the reference's timesteps; eq. 12 of Song et al. 2021.

    The configuration is that of diffusers' DDIM, so that `--scheduler` swaps it like any other.
    """

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Choose the timesteps of a sampling run, falling."""
        self.num_inference_steps = num_inference_steps
        rising = respaced_timesteps(self.config.num_train_timesteps, num_inference_steps)
        self.timesteps = torch.tensor(rising[::-1], dtype=torch.int64, device=device)
        self._next = dict(zip(rising[1:], rising, strict=False))  # each timestep -> the one that follows in sampling

    def step(
        self, model_output: Tensor, timestep: Tensor | int, sample: Tensor, **kwargs: Any
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """One step from x_t (B, P) towards x_0, given the prediction of x_0 or of the noise.

        Args:
            model_output: (B, P), what `prediction_type` says.
            timestep: one of `timesteps`.
            sample: x_t (B, P).
            kwargs: `return_dict`, as in diffusers; `generator` and the like are not needed.

        Raises:
            ValueError: `prediction_type` is neither "sample" nor "epsilon", or no timesteps were set.
        """
        if self.num_inference_steps is None:
            raise ValueError("call set_timesteps before step")
        abars = reference_alphas_cumprod(self.config.num_train_timesteps, self.config.beta_start, self.config.beta_end)
        t = int(timestep)
        abar = abars[t].item()
        abar_next = abars[self._next[t]].item() if t in self._next else 1.0
        if self.config.prediction_type == "sample":
            x_0 = model_output
            noise = (sample - abar**0.5 * x_0) / (1 - abar) ** 0.5
        elif self.config.prediction_type == "epsilon":
            noise = model_output
            x_0 = (sample - (1 - abar) ** 0.5 * noise) / abar**0.5
        else:
            raise ValueError(f"prediction_type must be 'sample' or 'epsilon', got {self.config.prediction_type!r}")
        previous = abar_next**0.5 * x_0 + (1 - abar_next) ** 0.5 * noise
        if kwargs.get("return_dict", True):
            return DDIMSchedulerOutput(prev_sample=previous, pred_original_sample=x_0)
        return previous, x_0


def make_reference_scheduler(prediction_type: str) -> RespacedDDIMScheduler:
    """The sampler of an imported model: 1,000 timesteps, linear betas, nothing clipped."""
    return RespacedDDIMScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="linear",
        prediction_type=prediction_type,
        clip_sample=False,
        timestep_spacing="trailing",
    )
