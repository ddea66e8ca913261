"""The reference's image tasks, with its constants, so that an imported model is measured on what it was trained for.

They differ from `mnist` and `cifar10` in two ways. Inputs are standardised with the reference's constants. And the
metric that conditions a model is that of the benchmark's TEST images, as in the reference: validation and test split
are the same images here, so what is reported was not held out. All training images are the train split.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from g_pt.tasks.base import Split
from g_pt.tasks.classification import ClassificationTask, LabelledExamples
from g_pt.tasks.cnn import CNNTask
from g_pt.tasks.image_sets import ImageSet, load_image_set
from g_pt.tasks.mlp import MLPTask


class ReferenceImageTask(ClassificationTask):
    """Images standardised as by the reference; a task adds its constants and the networks."""

    image_set: ClassVar[str]
    flatten_images: ClassVar[bool] = False
    pixel_mean: ClassVar[tuple[float, ...]]  # of each channel, for pixels of 0 to 255
    pixel_std: ClassVar[tuple[float, ...]]

    @cached_property
    def images(self) -> ImageSet:
        """The images as bytes."""
        return load_image_set(self.image_set)

    @cached_property
    def splits(self) -> dict[Split, LabelledExamples]:  # type: ignore[override]
        """All training images; the test images as validation and as test split."""
        train = LabelledExamples(self.standardise(self.images.train_images), self.images.train_labels)
        test = LabelledExamples(self.standardise(self.images.test_images), self.images.test_labels)
        return {"train": train, "validation": test, "test": test}

    def standardise(self, images: Tensor) -> Tensor:
        """Bytes (N, C, H, W) to inputs of the networks, (N, C, H, W) or (N, C H W)."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.pixel_mean, self.pixel_std))
        inputs = (images.float() - mean) / std
        return inputs.flatten(1) if self.flatten_images else inputs

    @property
    def data_subset(self) -> str | None:
        """Name of the part of the data where not all of it was found."""
        return self.images.subset


class ReferenceMNIST(ReferenceImageTask, MLPTask):
    """The MLP 784-10-10 with 7,960 parameters; pixels / 255, less 0.1307, over 0.3081 (train_mnist.py)."""

    name = "reference-mnist"
    image_set = "mnist"
    widths = (784, 10, 10)
    flatten_images = True
    pixel_mean, pixel_std = (255 * 0.1307,), (255 * 0.3081,)


class ReferenceCIFAR10(ReferenceImageTask, CNNTask):
    """The CNN with 5,370 parameters; pixels of 0 to 255 by channel, red first (train_cifar10.py)."""

    name = "reference-cifar10"
    image_set = "cifar10"
    input_shape = (3, 32, 32)
    pixel_mean, pixel_std = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
