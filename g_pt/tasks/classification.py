"""Classification tasks: labelled examples in three splits, metrics `loss` (nats) and `error` (%).

B = networks, P = parameters per network, N = examples, C = classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from g_pt.metrics import Metric
from g_pt.tasks.base import Split, TrainableTask, check_split

LOSS = Metric("loss", unit="nats", minimize=True, transform="log")
ERROR = Metric("error", unit="%", minimize=True, transform="log1p")  # an error can be 0

# Activations of this many floats at once keep the working set of an evaluation in cache.
EVALUATION_FLOATS = 1 << 19


@dataclass(frozen=True)
class LabelledExamples:
    """Inputs (N, ...) float32 as the network takes them, labels (N,) int64."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> LabelledExamples:
        """The same examples on a device."""
        return LabelledExamples(self.inputs.to(device), self.labels.to(device))


class ClassificationTask(TrainableTask):
    """Cross-entropy and error of many classifiers at once."""

    metrics: Mapping[str, Metric] = {"loss": LOSS, "error": ERROR}
    splits: Mapping[Split, LabelledExamples]

    @abstractmethod
    def forward(self, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Logits (B, C, N) of B networks, `{name: (B, *shape)}` raw, on the same N inputs."""

    @property
    def num_examples(self) -> int:  # type: ignore[override]
        """Number of training examples."""
        return len(self.splits["train"])

    def training_losses(self, tensors: Mapping[str, Tensor], examples: Tensor) -> Tensor:
        """Mean cross-entropy of each network on the given training examples: (B,)."""
        train = self.splits["train"].to(examples.device)
        logits = self.forward(tensors, train.inputs[examples])
        return cross_entropy(logits, train.labels[examples])

    def augmented_losses(self, tensors: Mapping[str, Tensor], examples: Tensor, generator: torch.Generator) -> Tensor:
        """The same on inputs that `augment` changed at random: (B,)."""
        train = self.splits["train"].to(examples.device)
        logits = self.forward(tensors, self.augment(train.inputs[examples], generator))
        return cross_entropy(logits, train.labels[examples])

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Change a mini-batch of training inputs at random; here nothing is changed and nothing drawn."""
        return inputs

    @torch.no_grad()
    def evaluate(self, params: Tensor, split: Split = "test") -> dict[str, Tensor]:
        """Loss in nats and error in percent of each network, each (B,), on one split."""
        check_split(split)
        if params.dim() != 2 or params.shape[1] != self.layout.num_params:
            raise ValueError(f"evaluate takes (batch, {self.layout.num_params}), got {tuple(params.shape)}")
        data = self.splits[split].to(params.device)
        networks, examples = self.evaluation_chunk(len(data))
        losses, errors = [], []
        for part in params.float().split(networks):
            tensors = self.layout.unflatten(part)
            logits = torch.cat(
                [self.forward(tensors, some) for some in data.inputs.split(examples)], dim=2
            )  # (b, C, N)
            losses.append(cross_entropy(logits, data.labels))
            errors.append(classification_error(logits, data.labels))
        return {"loss": torch.cat(losses), "error": torch.cat(errors)}

    def evaluation_chunk(self, num_examples: int) -> tuple[int, int]:
        """How many networks, and how many of the split's examples, `evaluate` gives to one call of `forward`.

        Here a network needs the width of its widest layer per example; tasks with larger activations say otherwise.
        """
        per_network = num_examples * max(shape[0] for shape in self.layout.shapes)
        return max(1, EVALUATION_FLOATS // per_network), num_examples


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over N: logits (B, C, N), labels (N,) to (B,)."""
    return F.cross_entropy(logits, labels.expand(len(logits), -1), reduction="none").mean(dim=1)


def classification_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of wrong answers in percent: logits (B, C, N), labels (N,) to (B,); ties and NaN are wrong."""
    index = labels.expand(len(logits), 1, -1)  # (B, 1, N)
    given = logits.gather(1, index)[:, 0]  # (B, N)
    others = logits.scatter(1, index, -torch.inf).amax(dim=1)  # (B, N); faster than argmax
    return 100 * (~(given > others)).float().mean(dim=1)
