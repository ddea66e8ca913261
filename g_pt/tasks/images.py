"""Tasks of the paper: images classified by its MLP 784-10-10 and by its CNN.

The last images of the makers' training set are the validation split; their test set is the test split. Inputs are
pixels / 255, standardised with each channel's mean and standard deviation over the train split.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch

from g_pt.tasks.base import Split
from g_pt.tasks.classification import ClassificationTask, LabelledExamples
from g_pt.tasks.cnn import CNNTask
from g_pt.tasks.image_sets import ImageSet, load_image_set
from g_pt.tasks.mlp import MLPTask

NUM_VALIDATION = 5_000


class ImageTask(ClassificationTask):
    """Images in the three splits; a task adds the name of its image set and the networks."""

    image_set: ClassVar[str]
    flatten_images: ClassVar[bool] = False

    @cached_property
    def splits(self) -> dict[Split, LabelledExamples]:  # type: ignore[override]
        """The three parts of the data."""
        return image_splits(load_image_set(self.image_set), flatten=self.flatten_images)


def image_splits(images: ImageSet, *, flatten: bool) -> dict[Split, LabelledExamples]:
    """Split and standardise: inputs (N, channels, height, width), or (N, pixels) with `flatten`."""
    train = images.train_images.float() / 255
    mean, std = (
        statistic(train[:-NUM_VALIDATION], dim=(0, 2, 3), keepdim=True) for statistic in (torch.mean, torch.std)
    )
    inputs = (train - mean) / std
    test = (images.test_images.float() / 255 - mean) / std
    if flatten:
        inputs, test = inputs.flatten(1), test.flatten(1)
    labels = images.train_labels
    return {
        "train": LabelledExamples(inputs[:-NUM_VALIDATION], labels[:-NUM_VALIDATION]),
        "validation": LabelledExamples(inputs[-NUM_VALIDATION:], labels[-NUM_VALIDATION:]),
        "test": LabelledExamples(test, images.test_labels),
    }


class FashionMNIST(ImageTask, MLPTask):
    """Networks 784-10-10 with 7,960 parameters on Fashion-MNIST."""

    name = "fashion-mnist"
    image_set = "fashion-mnist"
    widths = (784, 10, 10)
    flatten_images = True


class FashionCNN(ImageTask, CNNTask):
    """The paper's CNN for one channel, 5,082 parameters, on Fashion-MNIST."""

    name = "fashion-cnn"
    image_set = "fashion-mnist"
    input_shape = (1, 28, 28)


class MNIST(ImageTask, MLPTask):
    """Networks 784-10-10 with 7,960 parameters on MNIST: the paper's task."""

    name = "mnist"
    image_set = "mnist"
    widths = (784, 10, 10)
    flatten_images = True


class CIFAR10(ImageTask, CNNTask):
    """The paper's CNN, 5,370 parameters, on CIFAR-10."""

    name = "cifar10"
    image_set = "cifar10"
    input_shape = (3, 32, 32)
