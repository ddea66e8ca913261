"""The training metric that goes with a validation metric, read off the harvested networks.

A prompt means the validation metric, but only the training metric may give gradients. Wanting the validation value of
the training metric misses it by the gap between the two; feeding the measured gap back lets networks overfit without
end, since the training metric can fall where the validation metric cannot follow. So the target is the training
metric that networks of the zoo have where their validation metric is the prompt.

M = networks measured, K = knots; all metrics are transformed (`Metric.embedded`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GeneralizationGap:
    """A piecewise linear, non-decreasing map through knots, straight on beyond them.

    Attributes:
        validation: (K,), rising.
        training: (K,), not falling.
    """

    validation: Tensor
    training: Tensor

    @classmethod
    def none(cls) -> GeneralizationGap:
        """The identity."""
        return cls(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))

    @classmethod
    def fit(cls, validation: Tensor, training: Tensor, num_knots: int = 16) -> GeneralizationGap:
        """Average networks (M,) in groups of equal size along the validation metric.

        Raises:
            ValueError: there are fewer than two different validation metrics.
        """
        order = validation.argsort()
        groups = order.tensor_split(min(num_knots, len(order)))
        knots = torch.stack([validation[g].mean() for g in groups])  # (K,)
        values = torch.stack([training[g].mean() for g in groups]).cummax(0).values  # (K,)
        distinct = torch.cat([torch.tensor([True], device=knots.device), knots.diff() > 1e-6])
        if distinct.sum() < 2:
            raise ValueError(f"networks with at least two different metrics are needed, all {len(order)} have the same")
        return cls(knots[distinct], values[distinct])

    @classmethod
    def along_training(cls, validation: Tensor, training: Tensor, num_knots: int = 8) -> GeneralizationGap:
        """Average networks (M,) in groups of equal width along a training metric that says more than validation does.

        Runs end within a few percent of each other there, where their validation metrics scatter: groups along these
        would make the map level, and nothing would be asked of a prompt beyond the runs.

        Raises:
            ValueError: all networks lie in one group.
        """
        edges = torch.linspace(training.min().item(), training.max().item(), num_knots + 1, device=training.device)
        group = torch.bucketize(training, edges[1:-1])
        kept = [group == k for k in group.unique()]
        knots = torch.stack([validation[g].mean() for g in kept])  # (K,)
        values = torch.stack([training[g].mean() for g in kept])  # (K,)
        rising = knots > torch.cat([knots[:1] - 1, knots.cummax(0).values[:-1]])
        if rising.sum() < 2:
            raise ValueError(f"networks of at least two different metrics are needed, all {len(group)} are alike")
        return cls(knots[rising], values[rising])

    def __call__(self, validation: Tensor) -> Tensor:
        """The training metric expected at a validation metric, any shape."""
        knots, values = self.validation.to(validation.device), self.training.to(validation.device)
        right = torch.searchsorted(knots, validation.contiguous()).clamp(1, len(knots) - 1)
        left = right - 1
        slope = (values[right] - values[left]) / (knots[right] - knots[left])
        return values[left] + slope * (validation - knots[left])
