"""Scalars (diffusion time, metrics) as vectors.

B = batch, F = frequencies, W = width of the transformer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from g_pt.model.batched_layers import apply_linears


class ScalarEmbedding(nn.Module):
    """Sines and cosines at log-spaced frequencies, and the scalar itself, through one linear layer."""

    def __init__(self, width: int, num_frequencies: int, max_frequency: float) -> None:
        """Frequencies run from 1 to `max_frequency`, in radians per unit of the scalar."""
        super().__init__()
        self.num_frequencies, self.max_frequency = num_frequencies, max_frequency
        self.project = nn.Linear(2 * num_frequencies + 1, width)

    def features(self, scalar: Tensor) -> Tensor:
        """(B,), float32 or float64, to what the linear layer is given: (B, 2F+1) in the type of its weights."""
        # not a buffer: .to(bfloat16) would move a frequency of 600 by up to 2 radians
        exponents = torch.linspace(0, 1, self.num_frequencies, device=scalar.device)
        phase = scalar[:, None] * self.max_frequency**exponents  # (B, F)
        features = torch.cat([phase.sin(), phase.cos(), scalar[:, None]], dim=1)  # (B, 2F+1)
        return features.to(self.project.weight.dtype)

    def forward(self, scalar: Tensor) -> Tensor:
        """(B,), float32 or float64, to (B, W) in the type of the weights."""
        embedded: Tensor = self.project(self.features(scalar))  # (B, W)
        return embedded


def embed_scalars(embeddings: Iterable[nn.Module], scalars: Sequence[Tensor]) -> Tensor:
    """Several scalars (B,), each by its own `ScalarEmbedding`, as one batched product: (B, scalars, W)."""
    own: list[Any] = list(embeddings)  # what an nn.ModuleList holds has no type
    features = [embedding.features(scalar) for embedding, scalar in zip(own, scalars, strict=True)]
    return torch.stack(apply_linears([embedding.project for embedding in own], features), dim=1)
