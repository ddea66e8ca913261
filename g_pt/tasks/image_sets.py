"""Where images come from: `load_image_set("fashion-mnist")` reads the first place that has them.

Nothing is downloaded behind the user's back into a folder of ours.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA_DIR_VARIABLE = "G_PT_DATA_DIR"


@dataclass(frozen=True)
class ImageSet:
    """Images (N, channels, height, width) uint8 and labels (N,) int64, as their makers split them."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def load_image_set(name: str) -> ImageSet:
    """Read an image set from the user's folder or from where Debian installs it."""
    for folder in candidate_folders(name):
        if all(find_file(folder, stem) for stem in IDX_FILES):
            return read_idx_folder(folder)
    raise FileNotFoundError(
        f"the images of {name!r} were not found; looked for {IDX_FILES[0]}[.gz] and its siblings in "
        f"{[str(f) for f in candidate_folders(name)]}. Name the folder with {DATA_DIR_VARIABLE}"
    )


def candidate_folders(name: str) -> Iterator[Path]:
    """Folders that may hold the files, in the order in which they are tried."""
    if folder := os.environ.get(DATA_DIR_VARIABLE):
        yield Path(folder) / name
        yield Path(folder)
    yield Path("/usr/share/datasets") / name


def find_file(folder: Path, stem: str) -> Path | None:
    """The file, compressed or not."""
    return next((p for p in (folder / f"{stem}.gz", folder / stem) if p.is_file()), None)


def read_idx_folder(folder: Path) -> ImageSet:
    """Read the four files of an MNIST-like set."""
    arrays = [torch.from_numpy(read_idx(file)) for stem in IDX_FILES if (file := find_file(folder, stem))]
    train_images, train_labels, test_images, test_labels = arrays
    return ImageSet(train_images[:, None], train_labels.long(), test_images[:, None], test_labels.long())


def read_idx(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Read one IDX file of bytes (LeCun's format: 0, 0, 8, number of axes, sizes as big-endian int32, data)."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of bytes")
    num_axes = data[3]
    shape = np.frombuffer(data, ">i4", num_axes, 4)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * num_axes)
    if values.size != shape.prod(dtype=np.int64):
        raise ValueError(f"{path} is damaged: its header announces {tuple(shape)}, it holds {values.size} bytes")
    return values.reshape(shape).copy()
