"""Scalars (diffusion time, metrics) as vectors.

B = batch, F = frequencies, W = width of the transformer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScalarEmbedding(nn.Module):
    """Sines and cosines at log-spaced frequencies, and the scalar itself, through one linear layer."""

    frequencies: Tensor

    def __init__(self, width: int, num_frequencies: int, max_frequency: float) -> None:
        """Frequencies run from 1 to `max_frequency`, in radians per unit of the scalar."""
        super().__init__()
        exponents = torch.linspace(0, 1, num_frequencies)
        self.register_buffer("frequencies", max_frequency**exponents, persistent=False)
        self.project = nn.Linear(2 * num_frequencies + 1, width)

    def forward(self, scalar: Tensor) -> Tensor:
        """(B,) to (B, W)."""
        phase = scalar[:, None] * self.frequencies  # (B, F)
        features = torch.cat([phase.sin(), phase.cos(), scalar[:, None]], dim=1)  # (B, 2F+1)
        embedded: Tensor = self.project(features)  # (B, W)
        return embedded
