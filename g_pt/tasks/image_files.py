"""Files of images: IDX, the format of MNIST and Fashion-MNIST, and the binary version of CIFAR-10.

Nothing is unpickled: a pickle can run any code.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from g_pt.files.compressed import read_unpacked
from g_pt.files.schema import brief

Parts = tuple[Tensor, Tensor, Tensor, Tensor]  # images and labels to train, images and labels to test

MAX_BYTES = 100_000_000  # of an unpacked file: twice the training images of MNIST

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# SHA-256 of the uncompressed files, in that order: mirrors compress them differently.
IDX_CHECKSUMS = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion-mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}

CIFAR_TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR_TEST_FILES = ("test_batch.bin",)
CIFAR_SHAPE = (3, 32, 32)
CIFAR_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue plane


def find_file(folder: Path, stem: str) -> Path | None:
    """The file, compressed or not."""
    return next((p for p in (folder / f"{stem}.gz", folder / stem) if p.is_file()), None)


def read_idx_folder(folder: Path, name: str) -> Parts | None:
    """Images (N, 1, H, W) and labels of an MNIST-like set, train then test; None where a file is missing.

    Raises:
        ValueError: a file is damaged, or belongs to another set (a folder can hold one set of these file names).
    """
    paths = [path for stem in IDX_FILES if (path := find_file(folder, stem)) is not None]
    if len(paths) < len(IDX_FILES):
        return None
    contents = [read_file(path) for path in paths]
    check_contents(name, paths, contents)
    train_images, train_labels, test_images, test_labels = map(parse_idx, contents, paths)
    return train_images[:, None], train_labels.long(), test_images[:, None], test_labels.long()


def read_file(path: Path) -> bytes:
    """The uncompressed bytes."""
    return read_unpacked(path, MAX_BYTES)


def check_contents(name: str, paths: list[Path], contents: list[bytes]) -> None:
    """Refuse the files of another set; warn of files that their makers did not publish under this name."""
    for i, (path, data) in enumerate(zip(paths, contents, strict=True)):
        digest = hashlib.sha256(data).hexdigest()
        owner = next((known for known, checksums in IDX_CHECKSUMS.items() if digest in checksums), None)
        if owner is not None and owner != name:
            raise ValueError(
                f"{path} is a file of {owner}, but {name} was asked for; "
                f"keep each set in a folder of its name, such as {path.parent / name}"
            )
        if name in IDX_CHECKSUMS and digest != IDX_CHECKSUMS[name][i]:
            warnings.warn(
                f"{path} is not the file of {name} that its makers published (SHA-256 of the uncompressed file: "
                f"{digest}). It is used as it is; if these are not images of your own, download it again",
                stacklevel=2,
            )


def parse_idx(data: bytes, path: Path) -> Tensor:
    """Parse an IDX file of bytes (LeCun's format: 0, 0, 8, number of axes, sizes as big-endian int32, data)."""
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or len(data) < 4 + 4 * data[3]:
        raise ValueError(f"{path} is not an IDX file of bytes")
    num_axes = data[3]
    shape = np.frombuffer(data, ">u4", num_axes, 4).tolist()
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * num_axes)
    if values.size != math.prod(shape):  # of Python, whose products have no largest
        raise ValueError(f"{path} is damaged: its header announces {brief(tuple(shape))}, it holds {values.size} bytes")
    expected = 3 if "idx3" in path.name else 1
    if num_axes != expected:
        raise ValueError(f"{path} must have {expected} axes, got {num_axes}")
    return torch.from_numpy(values.reshape(shape).copy())


def read_cifar_folder(folder: Path) -> Parts | None:
    """Images (N, 3, 32, 32) and labels of CIFAR-10's binary version, train then test; None where a file is missing."""
    for place in (folder, folder / "cifar-10-batches-bin"):
        if all((place / file).is_file() for file in (*CIFAR_TRAIN_FILES, *CIFAR_TEST_FILES)):
            train, test = read_cifar(place, CIFAR_TRAIN_FILES), read_cifar(place, CIFAR_TEST_FILES)
            return (*train, *test)
    return None


def read_cifar(folder: Path, files: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Images and labels of some files, one after the other."""
    records = np.concatenate([read_cifar_records(folder / file) for file in files])
    images = torch.from_numpy(records[:, 1:].reshape(-1, *CIFAR_SHAPE).copy())
    return images, torch.from_numpy(records[:, 0].astype(np.int64))


def read_cifar_records(path: Path) -> NDArray[np.uint8]:
    """Records (N, 3073) of one file."""
    data = np.frombuffer(read_file(path), np.uint8)
    if data.size == 0 or data.size % CIFAR_RECORD:
        raise ValueError(f"{path} is damaged: its size must be a multiple of {CIFAR_RECORD} bytes, got {data.size}")
    records = data.reshape(-1, CIFAR_RECORD)
    if records[:, 0].max() > 9:
        raise ValueError(f"{path} is not a file of CIFAR-10: labels must be 0 to 9, got {records[:, 0].max()}")
    return records


def has_pickled_cifar(folder: Path) -> bool:
    """Is this the version of CIFAR-10 for Python, which we do not read?"""
    return any((place / "data_batch_1").is_file() for place in (folder, folder / "cifar-10-batches-py"))
