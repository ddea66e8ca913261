"""Toy tasks on made-up data: harvests and trainings that take seconds.

moons and spirals: points in the plane in two classes, 600 / 200 / 200 in train / validation / test.
regression: a wave on [-1, 1] with a little noise, 300 / 100 / 100.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import ClassVar

import numpy as np

from g_pt.tasks.base import Split
from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.examples import LabelledExamples, split_examples
from g_pt.tasks.mlp import MLPTask
from g_pt.tasks.regression import RegressionTask

DATA_SEED = 0


class Moons(MLPTask, ClassificationTask):
    """Networks 2-16-16-2 with 354 parameters: two half circles that reach into each other."""

    name = "moons"
    widths: ClassVar[tuple[int, ...]] = (2, 16, 16, 2)

    @cached_property
    def splits(self) -> dict[Split, LabelledExamples]:  # type: ignore[override]
        """The three parts of the data."""
        return split_examples(*moons(1000), seed=DATA_SEED)


class Spirals(MLPTask, ClassificationTask):
    """Networks 2-16-16-2 with 354 parameters: two spirals of three quarters of a turn."""

    name = "spirals"
    widths: ClassVar[tuple[int, ...]] = (2, 16, 16, 2)

    @cached_property
    def splits(self) -> dict[Split, LabelledExamples]:  # type: ignore[override]
        """The three parts of the data."""
        return split_examples(*spirals(1000), seed=DATA_SEED)


class Wave(MLPTask, RegressionTask):
    """Networks 1-16-16-1 with 321 parameters: sin(3 pi x) (1 - x / 2) with noise of 0.1."""

    name = "regression"
    widths: ClassVar[tuple[int, ...]] = (1, 16, 16, 1)

    @cached_property
    def splits(self) -> dict[Split, LabelledExamples]:  # type: ignore[override]
        """The three parts of the data."""
        return split_examples(*wave(500), seed=DATA_SEED)


Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Labels = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def moons(num: int) -> tuple[Array, Labels]:
    """Points (num, 2) near two half circles, centred, and the half circle (num,) of each."""
    draw, labels = np.random.default_rng(DATA_SEED), np.arange(num) % 2
    angle = draw.uniform(0, math.pi, num)
    side = 1 - 2 * labels
    points = np.stack([side * (np.cos(angle) - 0.5), side * (np.sin(angle) - 0.25)], axis=1)
    return points + 0.2 * draw.standard_normal((num, 2)), labels


def spirals(num: int) -> tuple[Array, Labels]:
    """Points (num, 2) near two spirals around the origin, and the spiral (num,) of each."""
    draw, labels = np.random.default_rng(DATA_SEED), np.arange(num) % 2
    radius = np.sqrt(draw.uniform(0, 1, num))
    angle = 1.5 * math.pi * radius + math.pi * labels
    points = 1.5 * radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points + 0.08 * draw.standard_normal((num, 2)), labels


def wave(num: int) -> tuple[Array, Array]:
    """Numbers (num, 1) in [-1, 1] and a noisy wave (num,) over them."""
    draw = np.random.default_rng(DATA_SEED)
    x = draw.uniform(-1, 1, num)
    return x[:, None], np.sin(3 * math.pi * x) * (1 - x / 2) + 0.1 * draw.standard_normal(num)
