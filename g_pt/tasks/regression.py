"""Regression tasks: metrics `loss` (mean squared error) and `error` (its root, in the unit of the labels).

B = networks, N = examples, K = numbers predicted for each example.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from g_pt.networks.metrics import Metric
from g_pt.tasks.base import Split
from g_pt.tasks.supervised import SupervisedTask

LOSS = Metric("loss", unit="squared label units", minimize=True, transform="log")
ERROR = Metric("error", unit="label units", minimize=True, transform="log")


class RegressionTask(SupervisedTask):
    """Squared errors of many networks at once; they return (N,) or (N, K), labels are as large, float32."""

    metrics: Mapping[str, Metric] = {"loss": LOSS, "error": ERROR}

    def checked_labels(self, labels: Tensor, split: Split) -> Tensor:
        """Labels in float32."""
        return labels.float()

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error of each network: outputs (B, N) or (B, K, N), labels (N,) or (N, K) to (B,)."""
        return mean_squared_error(outputs, labels)

    def measure(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Mean squared error and its root, for each network: (B,) each."""
        loss = mean_squared_error(outputs, labels)
        return {"loss": loss, "error": loss.sqrt()}


def mean_squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over N and K: outputs (B, N) or (B, K, N), labels (N,) or (N, K) to (B,).

    Raises:
        ValueError: a network predicts more or fewer numbers than an example has.
    """
    wanted = labels.movedim(0, -1).flatten()  # (K*N,)
    given = outputs.flatten(1)  # (B, K*N)
    if given.shape[1] != len(wanted):
        num = labels.shape[0]
        raise ValueError(
            f"a network must predict {len(wanted) / num:g} number(s) for each example, as the labels have, "
            f"got {given.shape[1] / num:g}"
        )
    return (given - wanted).square().mean(dim=1)
