"""The training objective: denoising, as a rule with prediction of x_0 (Ho et al. 2020; Peebles et al. 2022, eq. 2).

Or flow matching (Lipman et al. 2023), where x_t lies on the straight line from x_0 to noise and its velocity is
predicted.

B = batch, P = parameters per network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from g_pt.model.normalization import ParameterNormalizer
from g_pt.model.pairs import CheckpointPairs
from g_pt.model.schedulers import FLOW, PredictionType
from g_pt.networks.parameters import ParameterLayout

TimeWeighting = Literal["uniform", "snr"]
MAX_SNR = 5.0  # Hang et al. 2023, "Min-SNR": for x_0-prediction the weight is min(SNR, 5)


def linear_alphas_cumprod(num_train_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    """Products of 1 - beta_t for betas rising linearly: (num_train_timesteps,) float32.

    The same numbers as diffusers' schedulers with `beta_schedule="linear"`.
    """
    betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float32)
    return torch.cumprod(1 - betas, dim=0)


def q_sample(x_0: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, with abar_t of each sample (B,); eq. 4 of Ho et al. 2020."""
    abar = alphas_cumprod[:, None]
    return abar.sqrt() * x_0 + (1 - abar).sqrt() * noise


def velocity(x_0: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """v = sqrt(abar_t) noise - sqrt(1 - abar_t) x_0, with abar_t of each sample (B,); Salimans and Ho 2022, eq. 5.

    Its own inverse: x_0 = sqrt(abar_t) x_t - sqrt(1 - abar_t) v.
    """
    abar = alphas_cumprod[:, None]
    return abar.sqrt() * noise - (1 - abar).sqrt() * x_0


def flow_sigmas(num_train_timesteps: int) -> Tensor:
    """Noise levels 1/T, 2/T, ..., 1 of flow matching: (num_train_timesteps,), as diffusers' FlowMatch schedulers."""
    return torch.arange(1, num_train_timesteps + 1, dtype=torch.float32) / num_train_timesteps


def flow_sample(x_0: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """x_t = (1 - sigma) x_0 + sigma noise, with sigma of each sample (B,); its velocity over sigma is noise - x_0.

    Lipman et al. 2023, eq. 22 and 23, with time running from x_0 to noise.
    """
    sigma = sigmas[:, None]
    return (1 - sigma) * x_0 + sigma * noise


def tensor_weights(layout: ParameterLayout) -> Tensor:
    """Weights (P,) of mean 1 that make every tensor count alike, whatever its size."""
    weights = torch.empty(layout.num_params)
    for part, size in zip(layout.slices.values(), layout.sizes, strict=True):
        weights[part] = layout.num_params / (len(layout.names) * size)
    return weights


@dataclass(frozen=True)
class Objective:
    """What is minimised.

    Attributes:
        prediction_type: "sample": the model predicts x_0; "v_prediction": v; "flow_prediction": noise - x_0, and x_t is
            that of flow matching.
        weighting: over diffusion time, normalised to mean 1: "uniform" of the error of what is predicted, or "snr":
            min(SNR, 5) of the error of x_0, whichever is predicted.
        param_weights: (P,), of the error over the parameters; None for all alike.
        behaviour: distance (B,) between predicted and true raw parameters (B, P); None for no such term.
        behavioural_weight: of that distance, times abar_t: at high noise the prediction is a mean of many networks,
            which need not behave like any of them.
    """

    prediction_type: PredictionType = "sample"
    weighting: TimeWeighting = "uniform"
    param_weights: Tensor | None = None
    behaviour: Callable[[Tensor, Tensor], Tensor] | None = None
    behavioural_weight: float = 0.0


def diffusion_loss(
    model: Callable[..., Tensor],
    normalizer: ParameterNormalizer,
    pairs: CheckpointPairs,
    timesteps: Tensor,
    noise: Tensor,
    alphas_cumprod: Tensor,
    objective: Objective | None = None,
) -> Tensor:
    """Mean squared error of the prediction: a scalar.

    Args:
        model: takes (x_t, timesteps, x_start, starting_metric, prompted_metric).
        normalizer: of the raw parameters.
        pairs: raw parameters (B, P) and metrics (B,).
        timesteps: (B,) int64.
        noise: (B, P), standard normal.
        alphas_cumprod: (num_train_timesteps,), share of x_0 in the variance of x_t; (1 - sigma)² for flow matching.
        objective: what is minimised; x_0-prediction, every error alike, where not given.
    """
    objective = objective or Objective()
    x_0, x_start = normalizer.normalize(pairs.future_params), normalizer.normalize(pairs.starting_params)
    noised = Noised.draw(objective.prediction_type, x_0, noise, timesteps, alphas_cumprod)
    predicted = model(noised.x_t, noised.time, x_start, pairs.starting_metric, pairs.future_metric).float()  # (B, P)
    errors = (predicted - noised.target).square()  # (B, P)
    if objective.param_weights is not None:
        errors = errors * objective.param_weights
    loss = errors.mean(dim=1)  # (B,)
    if objective.weighting == "snr":
        weights = snr_weights(objective.prediction_type, alphas_cumprod)
        loss = loss * weights[timesteps] / weights.mean()
    if objective.behaviour is not None and objective.behavioural_weight:
        distance = objective.behaviour(normalizer.unnormalize(noised.x_0(predicted)), pairs.future_params)  # (B,)
        loss = loss + objective.behavioural_weight * noised.abar * distance
    return loss.mean()


@dataclass(frozen=True)
class Noised:
    """What the model sees of a batch, and what it should say.

    Attributes:
        prediction_type: what `target` is.
        x_t: (B, P).
        time: (B,), as the sampler will give it.
        target: (B, P).
        abar: (B,), share of x_0 in the variance of x_t.
    """

    prediction_type: PredictionType
    x_t: Tensor
    time: Tensor
    target: Tensor
    abar: Tensor

    @classmethod
    def draw(
        cls, prediction_type: PredictionType, x_0: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor
    ) -> Noised:
        """Noise x_0 (B, P) to the timesteps (B,)."""
        abar = alphas_cumprod[timesteps]  # (B,)
        if prediction_type == FLOW:
            # diffusers' FlowMatch schedulers count their times from 1
            return cls(prediction_type, flow_sample(x_0, noise, 1 - abar.sqrt()), timesteps + 1, noise - x_0, abar)
        target = x_0 if prediction_type == "sample" else velocity(x_0, noise, abar)
        return cls(prediction_type, q_sample(x_0, noise, abar), timesteps, target, abar)

    def x_0(self, predicted: Tensor) -> Tensor:
        """The x_0 (B, P) that a prediction (B, P) means."""
        if self.prediction_type == FLOW:
            return self.x_t - (1 - self.abar.sqrt())[:, None] * predicted
        return predicted if self.prediction_type == "sample" else velocity(predicted, self.x_t, self.abar)


def snr_weights(prediction_type: PredictionType, alphas_cumprod: Tensor) -> Tensor:
    """Weights of the error of what is predicted that give that of x_0 min(SNR, 5): (num_train_timesteps,)."""
    if prediction_type == FLOW:
        sigma = 1 - alphas_cumprod.sqrt()
        # an error of the velocity is that of x_0 over sigma
        return (alphas_cumprod / sigma.square()).clamp(max=MAX_SNR) * sigma.square()
    snr = alphas_cumprod / (1 - alphas_cumprod)
    weights = snr.clamp(max=MAX_SNR)
    return weights / (snr + 1) if prediction_type == "v_prediction" else weights  # its error is x_0's times SNR + 1
