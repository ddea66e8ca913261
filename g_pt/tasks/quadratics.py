"""Quadratics of known spectrum: networks are points, and what gradient descent does to them can be worked out.

B = networks, n = parameters of each, N = examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from g_pt.networks.metrics import Metric
from g_pt.permutations import PermutationSpec
from g_pt.tasks.base import SPLITS, Split, TrainableTask, check_split


class Point(nn.Module):
    """A network that is a point and computes nothing."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.zeros(size))


class Quadratics(TrainableTask):
    """Loss 1/2 (x - t)^T A (x - t) of a point x, on average over targets t near x*, which are the examples.

    A has the given eigenvalues, in random directions. The targets of the training split have mean x*, so that its loss
    is smallest there, and a mini-batch of b gives the gradient A (x - x*) with noise of covariance
    `noise`^2 A^2 / b. Points start around x*, at distances of one standard deviation. Losses are computed in the dtype
    of the points, float64 included.
    """

    name = "quadratics"
    metrics = {"loss": Metric("loss", "units", transform="log")}  # noqa: RUF012

    def __init__(self, spectrum: Sequence[float] | None = None, noise: float = 0.1, num_examples: int = 1000) -> None:
        """Draw directions, minimum and targets; always the same for the same arguments.

        Args:
            spectrum: n eigenvalues of A; 10 from 0.01 to 1, evenly spaced in the logarithm, where not given.
            noise: standard deviation of the targets in each direction; without it, validation equals test.
            num_examples: N of the training split.

        Raises:
            ValueError: an eigenvalue is not positive.
        """
        values = torch.logspace(-2, 0, 10, dtype=torch.float64) if spectrum is None else torch.tensor(spectrum).double()
        if not (values > 0).all():
            raise ValueError(f"the eigenvalues of a quadratic must be positive, got {values.tolist()}")
        self.spectrum, self.num_examples = values, num_examples
        generator, size = torch.Generator().manual_seed(0), len(values)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.directions = torch.linalg.qr(normal(size, size))[0]  # (n, n), orthonormal columns
        self.matrix = self.directions @ values.diag() @ self.directions.T  # (n, n), A
        self.minimum = normal(size)  # (n,), x*
        numbers = dict(zip(SPLITS, (num_examples, 200, 200), strict=True))
        self.targets = {split: self.minimum + noise * normal(num, size) for split, num in numbers.items()}  # (N, n)
        self.targets["train"] += self.minimum - self.targets["train"].mean(dim=0)

    def network(self) -> nn.Module:
        """A point of n coordinates."""
        return Point(len(self.spectrum))

    @property
    def permutations(self) -> PermutationSpec:
        """None: coordinates are not alike."""
        return PermutationSpec.none(self.layout)

    def init(self, num_networks: int, generator: torch.Generator) -> Tensor:
        """Points (B, n) with a standard normal distance from the minimum."""
        return self.minimum.float() + torch.randn(num_networks, len(self.minimum), generator=generator)

    def evaluate(self, params: Tensor, split: Split = "test") -> dict[str, Tensor]:
        """Mean loss over the targets of a split: (B, n) to `{"loss": (B,)}`."""
        check_split(split)
        if params.dim() != 2 or params.shape[1] != len(self.minimum):
            raise ValueError(f"task {self.name!r} takes (batch, {len(self.minimum)}), got {tuple(params.shape)}")
        return {"loss": self.mean_loss(params, self.targets[split])}

    def training_losses(
        self, tensors: Mapping[str, Tensor], examples: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """See `TrainableTask`: mean loss over some targets, (B,)."""
        return self.mean_loss(tensors["point"], self.targets["train"][examples])

    def mean_loss(self, points: Tensor, targets: Tensor) -> Tensor:
        """Mean of 1/2 (x - t)^T A (x - t) over targets (N, n), for each point (B, n): (B,)."""
        matrix, centre = self.matrix.to(points), targets.mean(dim=0)
        spread = targets - centre  # (N, n)
        constant = 0.5 * ((spread @ self.matrix) * spread).sum(dim=1).mean()
        away = points - centre.to(points)  # (B, n)
        return 0.5 * ((away @ matrix) * away).sum(dim=1) + constant.to(points)
