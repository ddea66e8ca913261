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

from g_pt.model.noise import NoiseSchedule
from g_pt.model.normalization import ParameterNormalizer
from g_pt.model.pairs import CheckpointPairs
from g_pt.model.schedulers import FLOW, PredictionType
from g_pt.networks.parameters import ParameterLayout

TimeWeighting = Literal["uniform", "snr"]
MAX_SNR = 5.0  # Hang et al. 2023, "Min-SNR": for x_0-prediction the weight is min(SNR, 5)


def tensor_weights(layout: ParameterLayout) -> Tensor:
    """Weights (P,) of mean 1 that make every tensor count alike, whatever its size."""
    weights = torch.empty(layout.num_params)
    for part, size in zip(layout.slices.values(), layout.sizes, strict=True):
        weights[part] = layout.num_params / (len(layout.names) * size)
    return weights


@dataclass(frozen=True)
class Objective:
    """An objective of the denoising stage.

    Attributes:
        prediction_type: "sample": the model predicts x_0; "v_prediction": v; "flow_prediction": noise - x_0, and x_t is
            that of flow matching.
        weighting: over diffusion time, normalised to mean 1: "uniform" of the error of what is predicted, or "snr":
            min(SNR, 5) of the error of x_0, whichever is predicted.
        param_weights: (P,), of the error over the parameters; None for all alike.
        behaviour: distance (B,) between predicted and true raw parameters (B, P); None for no such term.
        behavioural_weight: of that distance, times alpha_t²: at high noise the prediction is a mean of many networks,
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
    schedule: NoiseSchedule,
    objective: Objective | None = None,
) -> Tensor:
    """Mean squared error of the prediction: a scalar.

    Args:
        model: takes (x_t, timesteps, x_start, starting_metric, prompted_metric).
        normalizer: of the raw parameters.
        pairs: raw parameters (B, P) and metrics (B,).
        timesteps: (B,) int64.
        noise: (B, P), standard normal.
        schedule: of all times of the training.
        objective: what is minimised; x_0-prediction, every error alike, where not given.
    """
    objective = objective or Objective()
    x_0, x_start = normalizer.normalize(pairs.future_params), normalizer.normalize(pairs.starting_params)
    noised = Noised.draw(objective.prediction_type, x_0, noise, timesteps, schedule)
    predicted = model(noised.x_t, noised.time, x_start, pairs.starting_metric, pairs.future_metric).float()  # (B, P)
    errors = (predicted - noised.target).square()  # (B, P)
    if objective.param_weights is not None:
        errors = errors * objective.param_weights
    loss = errors.mean(dim=1)  # (B,)
    if objective.weighting == "snr":
        weights = snr_weights(objective.prediction_type, schedule)
        loss = loss * weights[timesteps] / weights.mean()
    if objective.behaviour is not None and objective.behavioural_weight:
        distance = objective.behaviour(normalizer.unnormalize(noised.x_0(predicted)), pairs.future_params)  # (B,)
        loss = loss + objective.behavioural_weight * noised.level.alpha.square() * distance
    return loss.mean()


@dataclass(frozen=True)
class Noised:
    """A noised batch as the model sees it, and the target of its prediction.

    Attributes:
        prediction_type: what `target` is.
        x_t: (B, P).
        time: (B,), as the sampler will give it.
        target: (B, P).
        level: alpha and sigma of each pair, (B,).
    """

    prediction_type: PredictionType
    x_t: Tensor
    time: Tensor
    target: Tensor
    level: NoiseSchedule

    @classmethod
    def draw(
        cls, prediction_type: PredictionType, x_0: Tensor, noise: Tensor, timesteps: Tensor, schedule: NoiseSchedule
    ) -> Noised:
        """Noise x_0 (B, P) to the timesteps (B,)."""
        level = schedule[timesteps]
        x_t = level.add_noise(x_0, noise)  # (B, P)
        if prediction_type == FLOW:
            # diffusers' FlowMatch schedulers count their times from 1
            return cls(prediction_type, x_t, timesteps + 1, noise - x_0, level)
        target = x_0 if prediction_type == "sample" else level.velocity(x_0, noise)
        return cls(prediction_type, x_t, timesteps, target, level)

    def x_0(self, predicted: Tensor) -> Tensor:
        """The x_0 (B, P) that a prediction (B, P) means."""
        if self.prediction_type == FLOW:
            return self.x_t - self.level.sigma[:, None] * predicted
        return predicted if self.prediction_type == "sample" else self.level.velocity(predicted, self.x_t)


def snr_weights(prediction_type: PredictionType, schedule: NoiseSchedule) -> Tensor:
    """Weights of the error of what is predicted that give that of x_0 min(SNR, 5): (num_train_timesteps,)."""
    weights = schedule.snr.clamp(max=MAX_SNR)
    if prediction_type == FLOW:  # an error of the velocity is that of x_0 over sigma
        return weights * schedule.sigma.square()
    return weights / (schedule.snr + 1) if prediction_type == "v_prediction" else weights  # x_0's times SNR + 1
