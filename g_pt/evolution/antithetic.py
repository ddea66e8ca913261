"""The gradient of a metric that has none, estimated by antithetic evolution strategies.

Salimans et al. 2017, "Evolution Strategies as a Scalable Alternative to Reinforcement Learning": the gradient of the
metric smoothed by normal noise of standard deviation sigma is E[m(x + sigma e) e] / sigma. Pairs of opposite noise
cancel everything of even order.

B = networks, K = pairs of perturbations, P = parameters per network; parameters here are normalised.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def perturbations(shape: torch.Size, num_pairs: int, generator: torch.Generator) -> Tensor:
    """Directions of the pairs, (B, K, P): the K of a network orthogonal to each other, each as long as normal noise.

    Orthogonal directions never measure the same thing twice (Choromanski et al. 2018, "Structured Evolution with
    Compact Architectures").
    """
    batch, size = shape
    noise = torch.randn(batch, num_pairs, size, generator=generator)
    if num_pairs > size:
        return noise
    q, r = torch.linalg.qr(noise.mT)  # (B, P, K), (B, K, K)
    directions = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # without the signs not uniform on the sphere
    return directions.mT * noise.norm(dim=-1, keepdim=True)  # (B, K, P)


@torch.no_grad()
def squared_gap_gradient(
    measure: Callable[[Tensor], Tensor], params: Tensor, wanted: Tensor, noise: Tensor, sigma: float
) -> tuple[Tensor, Tensor]:
    """Squared gap between measured and wanted metric, and an estimate of its gradient.

    The gap is that of the mean over all perturbations of a network, the gradient of the metric is estimated from the
    pairs, and their product is the gradient of the squared gap: gaps of single pairs would add their own noise.

    Args:
        measure: transformed metric (N,) of parameters (N, P); may be stochastic, then alike for all networks of a call.
        params: (B, P), normalised.
        wanted: (B,), transformed.
        noise: (B, K, P), from `perturbations`.
        sigma: standard deviation of the noise, in units of the normalised parameters.

    Returns:
        Squared gaps (B,) of the smoothed metric, and their gradients (B, P).
    """
    batch, num_pairs, size = noise.shape
    shifted = params[:, None, None] + sigma * torch.stack([noise, -noise], dim=2)  # (B, K, 2, P)
    metrics = measure(shifted.reshape(-1, size)).view(batch, num_pairs, 2)
    slopes = (metrics[..., 0] - metrics[..., 1]) / (2 * sigma)  # (B, K), along each direction
    gradient = torch.einsum("bk,bkp->bp", slopes, noise) / num_pairs  # (B, P), of the metric
    gap = metrics.mean(dim=(1, 2)) - wanted  # (B,)
    return gap.square(), 2 * gap[:, None] * gradient


def with_gradient(value: Tensor, params: Tensor, gradient: Tensor) -> Tensor:
    """A scalar that has this value, and this gradient (B, P) with respect to the parameters (B, P)."""
    surrogate = (params * gradient).sum()
    return value + surrogate - surrogate.detach()
