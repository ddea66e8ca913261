"""Labelled examples, and their three splits.

N = examples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from g_pt.tasks.base import Split


@dataclass(frozen=True)
class LabelledExamples:
    """Inputs (N, ...) float32, or int64 tokens; labels (N,) int64, or (N, ...) float32 in a regression."""

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels):
            raise ValueError(
                f"examples need one label per input, got {len(self.inputs)} inputs and {len(self.labels)} labels"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> LabelledExamples:
        """The same examples on a device."""
        return LabelledExamples(self.inputs.to(device), self.labels.to(device))


def split_examples(
    inputs: ArrayLike | Tensor, labels: ArrayLike | Tensor, *, held_out: float = 0.2, seed: int = 0
) -> dict[Split, LabelledExamples]:
    """Split examples at random into train, validation and test.

    Args:
        inputs: (N, ...), as the network takes them; integers of 16 bits and more, such as tokens, become int64 (a task
            gives them to its networks as they take them), other numbers float32.
        labels: (N,) or (N, ...); integers become int64, other numbers float32.
        held_out: share of validation and of test, each; the rest is for training.
        seed: decides which examples go where.

    Raises:
        ValueError: a split would be empty, or something is no number.
    """
    inputs, labels = numbers(inputs, "inputs"), numbers(labels, "labels")
    tokens = not inputs.is_floating_point() and inputs.dtype not in (torch.uint8, torch.int8, torch.bool)
    inputs = inputs.long() if tokens else inputs.float()
    labels = labels.float() if labels.is_floating_point() else labels.long()
    num = int(len(labels) * held_out)
    if num < 1 or len(labels) - 2 * num < 1:
        raise ValueError(f"each split needs an example, got {len(labels)} examples and held_out = {held_out}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    rows: dict[Split, Tensor] = {"train": order[2 * num :], "validation": order[:num], "test": order[num : 2 * num]}
    return {split: LabelledExamples(inputs[part], labels[part]) for split, part in rows.items()}


def numbers(values: ArrayLike | Tensor, what: str) -> Tensor:
    """An array as a tensor, or a ValueError where it holds something else than numbers."""
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} must be an array of numbers of one shape: {error}") from error
