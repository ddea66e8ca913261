"""Rows of tensors on disk, gathered at random in bounded memory.

P = numbers per row.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from checkpoints_dataset.format import StoreError
from g_pt.tensor_files import read_tensor_entries

NUMPY_DTYPES = {
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "U8": np.uint8,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "BOOL": np.bool_,
}
MAPPED_BYTES = 256 << 20
# Linux maps neighbours of a touched page that are in its cache: 64 KB at each end of a row
NEIGHBOURS = 2 * (64 << 10)


class MappedRows:
    """The rows of several arrays (rows, P), counted through, of which at most `mapped_bytes` are mapped at once.

    Pages that were touched count as memory of this process until they are given back, although they are the system's
    file cache: a store of 10 GB would seem to fill 10 GB. They stay in that cache, so taking them again is cheap.
    """

    def __init__(self, arrays: Sequence[NDArray[Any]], mapped_bytes: int = MAPPED_BYTES) -> None:
        """`arrays` are whole memory maps, as `map_safetensors` gives them, of equal P."""
        self.mapped_bytes = mapped_bytes
        self.ends = np.cumsum([len(array) for array in arrays])
        self.num_columns = arrays[0].shape[1]
        self._maps = [array._mmap for array in arrays if isinstance(array, np.memmap)]
        self._tensors = [torch.from_numpy(np.asarray(array)) for array in arrays]
        row_bytes = arrays[0].itemsize * self.num_columns
        self._whole_fits = row_bytes * len(self) <= mapped_bytes
        self._rows_at_once = max(1, mapped_bytes // (row_bytes + NEIGHBOURS))
        self._rows_mapped = 0  # at most; since pages were last given back

    def __len__(self) -> int:
        """Rows of all arrays."""
        return int(self.ends[-1])

    def gather(self, rows: NDArray[np.int64]) -> Tensor:
        """The given rows in their order: (len(rows), P) float32.

        Raises:
            IndexError: there is no such row.
        """
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows must lie in [0, {len(self)}), got {rows.min()} to {rows.max()}")
        gathered = torch.empty(len(rows), self.num_columns)
        order = np.argsort(rows, kind="stable")  # in the order of the files, each of which is one stretch
        for start in range(0, len(rows), self._rows_at_once):
            self._gather_into(gathered, rows, order[start : start + self._rows_at_once])
        return gathered

    def _gather_into(self, gathered: Tensor, rows: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        if not self._whole_fits and self._rows_mapped + len(places) > self._rows_at_once:
            self.give_back()
        self._rows_mapped += len(places)
        cuts = np.searchsorted(rows[places], self.ends)
        for tensor, end, first, last in zip(self._tensors, self.ends, [0, *cuts], cuts, strict=False):
            if first < last:
                own = torch.from_numpy(places[first:last])
                found = tensor.index_select(0, torch.from_numpy(rows[places[first:last]] - (end - len(tensor))))
                gathered.index_copy_(0, own, found.float())

    def give_back(self) -> None:
        """Unmap all pages; they are mapped again when they are needed."""
        self._rows_mapped = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            for pages in self._maps:
                pages.madvise(mmap.MADV_DONTNEED)


def map_safetensors(path: Path, name: str) -> NDArray[Any]:
    """One tensor of a safetensors file as a read-only memory map, without reading it.

    Row access through `safetensors` itself is several times slower than through the map.
    """
    try:
        entries = read_tensor_entries(path)
    except ValueError as error:
        raise StoreError(str(error)) from error
    if name not in entries:
        raise StoreError(f"{path} has no array {name!r}; it has {sorted(entries)}")
    entry = entries[name]
    if entry.dtype not in NUMPY_DTYPES:
        raise StoreError(f"{path}: array {name!r} must be one of {sorted(NUMPY_DTYPES)}, got {entry.dtype}")
    if 0 in entry.shape:  # nothing to map
        return np.empty(entry.shape, dtype=NUMPY_DTYPES[entry.dtype])
    return np.memmap(
        path,
        dtype=NUMPY_DTYPES[entry.dtype],
        mode="c",  # copy-on-write: torch wants a writable buffer, the file stays as it is
        offset=entry.start,
        shape=entry.shape,
    )
