"""Classification tasks: labelled examples in three splits, metrics `loss` (nats) and `error` (%).

B = networks, N = examples, C = classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from g_pt.networks.metrics import Metric
from g_pt.runtime.seeds import seeded_global_generator
from g_pt.tasks.base import Split
from g_pt.tasks.examples import LabelledExamples as LabelledExamples
from g_pt.tasks.supervised import SupervisedTask
from g_pt.tasks.templates import StackedModule

LOSS = Metric("loss", unit="nats", minimize=True, transform="log")
ERROR = Metric("error", unit="%", minimize=True, transform="log1p")  # an error can be 0


class ClassificationTask(SupervisedTask):
    """Cross-entropy and error of many classifiers at once; networks return logits (N, C), labels are (N,) int64."""

    metrics: Mapping[str, Metric] = {"loss": LOSS, "error": ERROR}

    @cached_property
    def num_classes(self) -> int | None:
        """C, the number of logits that `network()` gives; None where it returns something else."""
        stacked = StackedModule.of(self.network)
        inputs = self.splits["train"].inputs[:2].cpu().to(self.input_dtype)
        with torch.no_grad(), seeded_global_generator(0), stacked.precautions():
            outputs = stacked.module(inputs)
        return outputs.shape[1] if isinstance(outputs, Tensor) and outputs.dim() == 2 else None

    def checked_labels(self, labels: Tensor, split: Split) -> Tensor:
        """Labels (N,) int64 from 0 to C - 1; floats that are whole numbers become integers, and (N, 1) becomes (N,).

        Raises:
            ValueError: they are no such numbers.
        """
        if type(self).losses is not ClassificationTask.losses:
            return labels  # a loss of one's own has labels of its own
        if labels.dim() == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.dim() != 1 or not torch.equal(labels.long().to(labels.dtype), labels):
            raise ValueError(
                f"labels of split {split!r} must be whole numbers, one per example, got {tuple(labels.shape)} "
                f"{labels.dtype} such as {labels.flatten()[:3].tolist()}; for other numbers derive from RegressionTask"
            )
        labels = labels.long()
        if self.num_classes is not None and (labels.min() < 0 or labels.max() >= self.num_classes):
            low, high = int(labels.min()), int(labels.max())
            hint = ": subtract 1" if (low, high) == (1, self.num_classes) else ""
            raise ValueError(
                f"labels of split {split!r} must be int64 from 0 to {self.num_classes - 1}, since network() gives "
                f"{self.num_classes} logits, got {low} to {high}{hint}"
            )
        return labels

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
