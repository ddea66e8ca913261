"""Classification tasks: labelled examples in three splits, metrics `loss` (nats) and `error` (%).

B = networks, N = examples, C = classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from g_pt.networks.metrics import Metric
from g_pt.tasks.examples import LabelledExamples as LabelledExamples
from g_pt.tasks.supervised import SupervisedTask

LOSS = Metric("loss", unit="nats", minimize=True, transform="log")
ERROR = Metric("error", unit="%", minimize=True, transform="log1p")  # an error can be 0


class ClassificationTask(SupervisedTask):
    """Cross-entropy and error of many classifiers at once; networks return logits (N, C), labels are (N,) int64."""

    metrics: Mapping[str, Metric] = {"loss": LOSS, "error": ERROR}

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of each network: logits (B, C, N), labels (N,) to (B,)."""
        return cross_entropy(outputs, labels)

    def measure(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Loss in nats and error in percent of each network: logits (B, C, N), labels (N,) to (B,) each."""
        return {"loss": cross_entropy(outputs, labels), "error": classification_error(outputs, labels)}


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over N: logits (B, C, N), labels (N,) to (B,)."""
    return F.cross_entropy(logits, labels.expand(len(logits), -1), reduction="none").mean(dim=1)


def classification_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of wrong answers in percent: logits (B, C, N), labels (N,) to (B,); ties and NaN are wrong."""
    index = labels.expand(len(logits), 1, -1)  # (B, 1, N)
    given = logits.gather(1, index)[:, 0]  # (B, N)
    others = logits.scatter(1, index, -torch.inf).amax(dim=1)  # (B, N); faster than argmax
    return 100 * (~(given > others)).float().mean(dim=1)
