"""Tasks on scikit-learn's 8x8 handwritten digits, which need no download.

1,797 examples in a stratified split that is fixed for good: 1,197 train, 300 validation, 300 test.
Inputs are pixel / 16, standardised with the train split's one mean and standard deviation.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch

from g_pt.tasks.base import Split
from g_pt.tasks.classification import ClassificationTask, LabelledExamples
from g_pt.tasks.mlp import MLPTask

NUM_VALIDATION = NUM_TEST = 300
SPLIT_SEED = 0


class Digits(MLPTask, ClassificationTask):
    """Networks 64-16-10 with 1,210 parameters."""

    name = "digits"
    widths: ClassVar[tuple[int, ...]] = (64, 16, 10)

    @cached_property
    def splits(self) -> dict[Split, LabelledExamples]:  # type: ignore[override]
        """The three parts of the data."""
        return load_digits_splits()


class DigitsDeep(Digits):
    """Networks 64-16-16-10 with 1,482 parameters: two hidden layers."""

    name = "digits-deep"
    widths = (64, 16, 16, 10)


def load_digits_splits() -> dict[Split, LabelledExamples]:
    """Read, split and standardise the digits that scikit-learn ships."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    rest, test = train_test_split(range(len(labels)), test_size=NUM_TEST, stratify=labels, random_state=SPLIT_SEED)
    train, validation = train_test_split(rest, test_size=NUM_VALIDATION, stratify=labels[rest], random_state=SPLIT_SEED)
    inputs = torch.tensor(pixels, dtype=torch.float32) / 16
    mean, std = inputs[train].mean(), inputs[train].std()
    inputs, targets = (inputs - mean) / std, torch.tensor(labels, dtype=torch.int64)
    parts: dict[Split, list[int]] = {"train": train, "validation": validation, "test": test}
    return {split: LabelledExamples(inputs[rows], targets[rows]) for split, rows in parts.items()}
