"""Paths through the sampling noise, along which a model's updates change smoothly.

P = parameters per network, A = anchors, F = points between two anchors.
"""

from __future__ import annotations

import torch
from torch import Tensor


def slerp(first: Tensor, second: Tensor, fraction: float | Tensor) -> Tensor:
    """Spherical interpolation (Shoemake 1985): on an arc from first to second, both (..., P).

    Unlike a straight line, it keeps the norm between those of its ends, and so stays where Gaussian noise lies.

    Args:
        first: at fraction 0.
        second: at fraction 1.
        fraction: broadcasts against (..., 1).
    """
    cosine = torch.cosine_similarity(first, second, dim=-1).clamp(-1, 1)[..., None]
    angle = cosine.arccos()
    fraction = torch.as_tensor(fraction, dtype=first.dtype)
    if (angle.sin().abs() < 1e-6).any():  # no arc, or every one: a line
        return torch.lerp(first, second, fraction)
    return (((1 - fraction) * angle).sin() * first + (fraction * angle).sin() * second) / angle.sin()


def latent_loop(num_anchors: int, num_between: int, size: int, generator: torch.Generator) -> Tensor:
    """Noise (A*F, P) along a closed path of arcs through A random vectors; the last arc ends where the first begins."""
    if num_anchors < 2 or num_between < 1:
        raise ValueError(f"a loop needs at least 2 anchors and 1 point each, got {num_anchors} and {num_between}")
    anchors = torch.randn(num_anchors, size, generator=generator)
    fractions = (torch.arange(num_between) / num_between)[:, None]  # (F, 1)
    arcs = [slerp(a.expand(num_between, -1), b.expand(num_between, -1), fractions)
            for a, b in zip(anchors, anchors.roll(-1, dims=0), strict=True)]  # fmt: skip
    return torch.cat(arcs)
