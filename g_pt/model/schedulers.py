"""Samplers by name: diffusers' schedulers, set up for unbounded vectors and for what the model predicts.

What is right for which model, and why the others are refused, was measured with models that know x_0:
docs/schedulers.md.
"""

from __future__ import annotations

from typing import Any, Literal

import diffusers
import torch
from diffusers import SchedulerMixin
from torch import Tensor

from g_pt.model.noise import NoiseSchedule

PredictionType = Literal["sample", "v_prediction", "flow_prediction"]
FLOW = "flow_prediction"  # diffusers' name: the velocity noise - x_0 of straight paths

# name on the command line -> (class, what differs from its defaults)
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {"variance_type": "fixed_small"}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"}),
    "dpmsolver++-singlestep": (
        "DPMSolverSinglestepScheduler",
        {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"},
    ),
    "euler": ("EulerDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {"final_sigmas_type": "zero"}),
}
# the same for models trained by flow matching, whose paths from noise to x_0 are straight lines
FLOW_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "flow-euler": ("FlowMatchEulerDiscreteScheduler", {"shift": 1.0, "use_dynamic_shifting": False}),
}
FLOW_CLASSES = ("FlowMatch", "FlowMap", "LTXEuler")

# classes of diffusers that some would try, and what keeps them from sampling these models
REFUSED: dict[str, str] = {
    "CogVideoXDDIMScheduler": "it has a noise schedule of its own, and samples of a known Gaussian miss its mean",
    "ConsistencyDecoderScheduler": "it is made for consistency models",
    "CMStochasticIterativeScheduler": "it is made for consistency models",
    "DDIMInverseScheduler": "it goes from x_0 to noise",
    "DEISMultistepScheduler": "it stops before the noise is gone: even a model that knows x_0 misses it",
    "DPMSolverMultistepInverseScheduler": "it goes from x_0 to noise",
    "DPMSolverSDEScheduler": "it needs a package (torchsde) that is not kept up",
    "EDMDPMSolverMultistepScheduler": "it has no x_0-prediction",
    "EDMEulerScheduler": "it has no x_0-prediction",
    "EulerAncestralDiscreteScheduler": "it has no x_0-prediction",
    "IPNDMScheduler": "it has a noise schedule of its own",
    "KDPM2AncestralDiscreteScheduler": "it has no x_0-prediction",
    "KDPM2DiscreteScheduler": "it has no x_0-prediction",
    "LCMScheduler": "it is made for consistency models",
    "PNDMScheduler": "it has no x_0-prediction",
    "SASolverScheduler": "it stops before the noise is gone: even a model that knows x_0 misses it",
    "TCDScheduler": "it is made for consistency models",
}


def noise_schedule(
    num_train_timesteps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    prediction_type: str = "sample",
) -> dict[str, Any]:
    """The part of a scheduler's configuration that a trained model depends on; flow matching has no betas."""
    if prediction_type == FLOW:
        return {"num_train_timesteps": num_train_timesteps, "prediction_type": FLOW}
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


def training_schedule(config: Any) -> NoiseSchedule:
    """The noise that a model was trained with, from its scheduler's configuration."""
    if is_flow(config):
        return NoiseSchedule.straight(config["num_train_timesteps"])
    return NoiseSchedule.linear(config["num_train_timesteps"], config["beta_start"], config["beta_end"])


def default_scheduler(prediction_type: str) -> str:
    """Name of the sampler that a trained pipeline gets: without noise of its own, so that gradients pass it."""
    return "flow-euler" if prediction_type == FLOW else "ddim"


def is_flow(config: Any) -> bool:
    """Whether a scheduler's configuration is one of flow matching."""
    return config.get("prediction_type") == FLOW or str(config.get("_class_name", "")).startswith(FLOW_CLASSES)


def make_scheduler(name: str, config: dict[str, Any]) -> SchedulerMixin:
    """Make a sampler by name from a noise schedule or from another sampler's configuration.

    Args:
        name: one of `SCHEDULERS` or `FLOW_SCHEDULERS`, or a class of diffusers that is in them.
        config: what the model was trained with.

    Raises:
        ValueError: the name is unknown (the error lists what exists), or it is not right for the model.
    """
    known = {**SCHEDULERS, **FLOW_SCHEDULERS}
    name = {cls: key for key, (cls, _) in known.items()}.get(name, name)
    ours = FLOW_SCHEDULERS if is_flow(config) else SCHEDULERS
    if name in REFUSED:
        raise ValueError(f"{name} cannot sample this model: {REFUSED[name]}; take one of {sorted(ours)}")
    if name not in known and not name.startswith(FLOW_CLASSES):
        raise ValueError(f"scheduler must be one of {sorted(ours)}, got {name!r}")
    if name not in ours:
        trained = "flow matching" if is_flow(config) else "diffusion"
        raise ValueError(
            f"{name} is of another process than the model, which was trained by {trained}; take one of {sorted(ours)}"
        )
    cls, overrides = ours[name]
    config = {key: value for key, value in config.items() if key != "_class_name"}
    scheduler: SchedulerMixin = getattr(diffusers, cls).from_config(config, **overrides)
    return scheduler


def set_sampling_timesteps(scheduler: Any, num_steps: int, device: torch.device) -> None:
    """Choose the times of a sampling run, from pure noise on, the last step to x_0; raises as `check_num_steps`."""
    check_num_steps(scheduler, num_steps)
    if is_flow(scheduler.config):
        # left to itself, diffusers goes from 1 to 1 / num_train_timesteps: its last step would do nothing
        scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / num_steps, num_steps).tolist(), device=device)
    else:
        scheduler.set_timesteps(num_steps, device=device)


def check_num_steps(scheduler: Any, num_steps: int) -> None:
    """Refuse a number of sampling steps that no sampling run can have.

    Raises:
        ValueError: fewer than 1 step, more than the model has timesteps, or a fraction.
    """
    most = scheduler.config.num_train_timesteps
    if not hasattr(num_steps, "__index__"):
        raise ValueError(f"num_inference_steps must be a whole number, got {num_steps!r}")
    if not 1 <= num_steps <= most:
        raise ValueError(f"num_inference_steps must be at least 1 and at most {most}, got {num_steps}")


def first_noise(scheduler: Any, noise: Tensor) -> Tensor:
    """x at the first time from standard normal noise, (B, P) each; some samplers keep x in another scale."""
    return noise * getattr(scheduler, "init_noise_sigma", 1.0)


def model_input(scheduler: Any, x_t: Tensor, t: Tensor) -> Tensor:
    """x_t (B, P) in the scale of the training; flow matching has only one."""
    scaled: Tensor = scheduler.scale_model_input(x_t, t) if hasattr(scheduler, "scale_model_input") else x_t
    return scaled
