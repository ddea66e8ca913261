"""How much of x_0 and how much noise x_t holds at each time of the training.

T = times, B = batch, P = parameters per network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """x_t = alpha_t x_0 + sigma_t noise.

    Attributes:
        alpha: (T,), or (B,) for the times of a batch.
        sigma: of the same shape.
    """

    alpha: Tensor
    sigma: Tensor

    @classmethod
    def linear(cls, num_train_timesteps: int, beta_start: float, beta_end: float) -> NoiseSchedule:
        """Betas that rise linearly (Ho et al. 2020), as diffusers' schedulers with `beta_schedule="linear"`."""
        betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float32)
        return cls.from_alphas_cumprod(torch.cumprod(1 - betas, dim=0))

    @classmethod
    def straight(cls, num_train_timesteps: int) -> NoiseSchedule:
        """Noise levels 1/T, 2/T, ..., 1 of flow matching, as diffusers' FlowMatch schedulers.

        Straight lines from x_0 to noise: Lipman et al. 2023, eq. 22, with time running from x_0 to noise.
        """
        sigma = torch.arange(1, num_train_timesteps + 1, dtype=torch.float32) / num_train_timesteps
        return cls(1 - sigma, sigma)

    @classmethod
    def from_alphas_cumprod(cls, abar: Tensor) -> NoiseSchedule:
        """alpha² + sigma² = 1, with abar = alpha² the product of 1 - beta."""
        return cls(abar.sqrt(), (1 - abar).sqrt())

    def __len__(self) -> int:
        return len(self.alpha)

    def __getitem__(self, timesteps: Tensor) -> NoiseSchedule:
        """The levels of times (B,)."""
        return NoiseSchedule(self.alpha[timesteps], self.sigma[timesteps])

    def to(self, device: torch.device) -> NoiseSchedule:
        """The same levels on a device."""
        return NoiseSchedule(self.alpha.to(device), self.sigma.to(device))

    @property
    def snr(self) -> Tensor:
        """Signal over noise, both as variances."""
        return (self.alpha / self.sigma).square()

    def add_noise(self, x_0: Tensor, noise: Tensor) -> Tensor:
        """x_t (B, P) of the levels (B,) of a batch; eq. 4 of Ho et al. 2020."""
        return self.alpha[:, None] * x_0 + self.sigma[:, None] * noise

    def velocity(self, x_0: Tensor, noise: Tensor) -> Tensor:
        """v = alpha_t noise - sigma_t x_0, (B, P); Salimans and Ho 2022, eq. 5.

        Where alpha² + sigma² = 1 it is its own inverse: x_0 = alpha_t x_t - sigma_t v.
        """
        return self.alpha[:, None] * noise - self.sigma[:, None] * x_0
