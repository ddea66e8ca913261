"""Samplers by name: diffusers' schedulers, set up for unbounded vectors and for what the model predicts."""

from __future__ import annotations

from typing import Any

import diffusers
from diffusers import SchedulerMixin

# name on the command line -> (class, what differs from its defaults)
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {"variance_type": "fixed_small"}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"}),
    "unipc": ("UniPCMultistepScheduler", {"final_sigmas_type": "zero"}),
}


def noise_schedule(
    num_train_timesteps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    prediction_type: str = "sample",
) -> dict[str, Any]:
    """The part of a scheduler's configuration that a trained model depends on."""
    return {
        "num_train_timesteps": num_train_timesteps,
        "beta_start": beta_start,
        "beta_end": beta_end,
        "beta_schedule": "linear",
        "prediction_type": prediction_type,
        # 1.0 would clamp every predicted parameter to one standard deviation
        "clip_sample": False,
        # "leading", the default of DDPM and DDIM, would start 20 steps at t = 950
        "timestep_spacing": "trailing",
    }


def make_scheduler(name: str, config: dict[str, Any]) -> SchedulerMixin:
    """Make a sampler by name from a noise schedule or from another sampler's configuration.

    Raises:
        ValueError: the name is unknown; the error lists what exists.
    """
    if name not in SCHEDULERS:
        raise ValueError(
            f"scheduler must be one of {sorted(SCHEDULERS)}, got {name!r}; a scheduler of another process "
            "(flow matching, say) fits only models trained with it"
        )
    cls, overrides = SCHEDULERS[name]
    scheduler: SchedulerMixin = getattr(diffusers, cls).from_config(dict(config), **overrides)
    return scheduler
