"""Tiny files of images in the formats of the real ones."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from g_pt.tasks.image_files import CIFAR_TEST_FILES, CIFAR_TRAIN_FILES, IDX_FILES


def idx_bytes(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_idx_folder(folder: Path, *, num_train: int = 6, num_test: int = 4, size: int = 28, compress: bool = True):
    """Random images; returns the arrays in the order of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = []
    for num in (num_train, num_test):
        arrays += [rng.integers(256, size=(num, size, size)), rng.integers(10, size=num)]
    arrays = [array.astype(np.uint8) for array in arrays]
    for stem, array in zip(IDX_FILES, arrays, strict=True):
        data = idx_bytes(array)
        (folder / f"{stem}{'.gz' * compress}").write_bytes(gzip.compress(data) if compress else data)
    return arrays


def write_cifar_folder(folder: Path, *, num_per_file: int = 2) -> dict[str, np.ndarray]:
    """Random records (N, 3073) of each file."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    written = {}
    for file in (*CIFAR_TRAIN_FILES, *CIFAR_TEST_FILES):
        records = rng.integers(256, size=(num_per_file, 3073)).astype(np.uint8)
        records[:, 0] %= 10
        (folder / file).write_bytes(records.tobytes())
        written[file] = records
    return written
