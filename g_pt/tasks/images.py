"""Tasks of the paper: images classified by its MLP 784-10-10 and by its CNN.

The last images of the makers' training set are the validation split; their test set is the test split. Inputs are
pixels / 255, standardised with each channel's mean and standard deviation over the train split.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from g_pt.tasks.base import Split
from g_pt.tasks.classification import ClassificationTask, LabelledExamples
from g_pt.tasks.cnn import CNNTask
from g_pt.tasks.image_sets import ImageSet, load_image_set
from g_pt.tasks.mlp import MLPTask

# Measuring a CNN costs as much as several steps of its training, and a harvest does it at every checkpoint.
CNN_VALIDATION = 1_000


class ImageTask(ClassificationTask):
    """Images in the three splits; a task adds the name of its image set and the networks."""

    image_set: ClassVar[str]
    flatten_images: ClassVar[bool] = False
    max_validation: ClassVar[int | None] = None

    @cached_property
    def images(self) -> ImageSet:
        """The images as bytes."""
        return load_image_set(self.image_set)

    @cached_property
    def splits(self) -> dict[Split, LabelledExamples]:  # type: ignore[override]
        """The three parts of the data."""
        return image_splits(self.images, flatten=self.flatten_images, max_validation=self.max_validation)

    @property
    def data_subset(self) -> str | None:
        """Name of the part of the data where not all of it was found."""
        return self.images.subset


def image_splits(
    images: ImageSet, *, flatten: bool, max_validation: int | None = None
) -> dict[Split, LabelledExamples]:
    """Split and standardise: inputs (N, channels, height, width), or (N, pixels) with `flatten`.

    The validation split is the set's own, or its last `max_validation` images; the others are trained on.
    """
    num_validation = min(images.num_validation, max_validation or images.num_validation)
    num_train = len(images.train_images) - num_validation
    if num_train < 1:
        raise ValueError(
            f"the last {num_validation} training images are the validation split, so more are needed; "
            f"got {len(images.train_images)}"
        )
    train = images.train_images.float() / 255
    mean, std = (statistic(train[:num_train], dim=(0, 2, 3), keepdim=True) for statistic in (torch.mean, torch.std))
    inputs = (train - mean) / std
    test = (images.test_images.float() / 255 - mean) / std
    if flatten:
        inputs, test = inputs.flatten(1), test.flatten(1)
    labels = images.train_labels
    return {
        "train": LabelledExamples(inputs[:num_train], labels[:num_train]),
        "validation": LabelledExamples(inputs[num_train:], labels[num_train:]),
        "test": LabelledExamples(test, images.test_labels),
    }


def flip_and_crop(images: Tensor, generator: torch.Generator, *, padding: int = 4) -> Tensor:
    """Mirror each image with probability 1/2 and cut it out of itself in a frame of zeros: (N, C, H, W) to the same.

    Offsets are uniform in 0..2 padding. (The paper's code leaves out the last one, 8, by an off-by-one slip.) Images
    are standardised, as in the paper's code: a zero is a pixel of average colour, not a black one.
    """
    num, _, height, width = images.shape
    rows, columns = torch.randint(2 * padding + 1, (2, num, 1), generator=generator)
    mirrored = torch.rand(num, 1, generator=generator) < 0.5
    rows = rows + torch.arange(height)  # (N, H)
    columns = columns + torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width))  # (N, W)
    framed = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)  # (N, H + 8, W + 8, C)
    rows, columns = rows.to(images.device), columns.to(images.device)
    which = torch.arange(num, device=images.device)[:, None, None]
    return framed[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


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
    max_validation = CNN_VALIDATION


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
    max_validation = CNN_VALIDATION

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Random mirroring and shifts, in training only."""
        return flip_and_crop(inputs, generator)
