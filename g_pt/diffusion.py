"""The training objective: denoising with prediction of x_0 (Ho et al. 2020; Peebles et al. 2022, eq. 2).

B = batch, P = parameters per network.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from g_pt.normalization import ParameterNormalizer
from g_pt.pairs import CheckpointPairs
from g_pt.transformer import ParameterTransformer

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


def diffusion_loss(
    model: ParameterTransformer,
    normalizer: ParameterNormalizer,
    pairs: CheckpointPairs,
    timesteps: Tensor,
    noise: Tensor,
    alphas_cumprod: Tensor,
    weighting: TimeWeighting = "uniform",
) -> Tensor:
    """Mean squared error of the predicted x_0: a scalar.

    Args:
        model: takes (x_t, timesteps, x_start, starting_metric, prompted_metric).
        normalizer: of the raw parameters.
        pairs: raw parameters (B, P) and metrics (B,).
        timesteps: (B,) int64.
        noise: (B, P), standard normal.
        alphas_cumprod: (num_train_timesteps,).
        weighting: of the error over diffusion time, normalised to mean 1: "uniform", or "snr": min(SNR, 5).
    """
    x_0, x_start = normalizer.normalize(pairs.future_params), normalizer.normalize(pairs.starting_params)
    abar = alphas_cumprod[timesteps]
    x_t = q_sample(x_0, noise, abar)
    predicted = model(x_t, timesteps, x_start, pairs.starting_metric, pairs.future_metric)
    errors = (predicted.float() - x_0).square().mean(dim=1)  # (B,)
    if weighting == "uniform":
        return errors.mean()
    snr = (alphas_cumprod / (1 - alphas_cumprod)).clamp(max=MAX_SNR)
    return (errors * snr[timesteps]).mean() / snr.mean()
