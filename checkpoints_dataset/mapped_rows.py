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
from g_pt.files.tensor import read_tensor_entries

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
# few, since a touched page brings its neighbours, up to 2 MB of them where the system caches files in large pieces
ROWS_AT_ONCE = 128
MEMORY_STATUS = Path("/proc/self/statm")


class MappedRows:
    """The rows of several arrays (rows, P), counted through, of which little more than `mapped_bytes` are mapped.

    Pages that were touched count as memory of this process until they are given back, although they are the system's
    file cache: a store of 10 GB would seem to fill 10 GB. They stay in that cache, so taking them again is cheap.
    """

    def __init__(self, arrays: Sequence[NDArray[Any]], mapped_bytes: int = MAPPED_BYTES) -> None:
        """`arrays` are whole memory maps, as `map_safetensors` gives them, of equal P."""
        self.mapped_bytes = mapped_bytes
        self.ends = np.cumsum([len(array) for array in arrays])
        self.num_columns = arrays[0].shape[1]
        bases: list[object] = [array.base for array in arrays]
        self._maps = [base for base in bases if isinstance(base, mmap.mmap)]
        self._tensors = [torch.from_numpy(np.asarray(array)) for array in arrays]
        self._whole_fits = sum(array.nbytes for array in arrays) <= mapped_bytes
        self._mapped_before = mapped_file_bytes()

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
        for start in range(0, len(rows), ROWS_AT_ONCE):
            self._copy(rows, order[start : start + ROWS_AT_ONCE], gathered)
            if not self._whole_fits and mapped_file_bytes() - self._mapped_before > self.mapped_bytes:
                self.give_back()
        return gathered

    def _copy(self, rows: NDArray[np.int64], places: NDArray[np.int64], gathered: Tensor) -> None:
        """Some of the rows, which rise with their places, to the same places of the result."""
        wanted = rows[places]
        cuts = np.searchsorted(wanted, self.ends)  # where each array's part of them ends
        firsts = np.concatenate([[0], cuts[:-1]])
        for array in np.flatnonzero(firsts < cuts):
            part, tensor = slice(firsts[array], cuts[array]), self._tensors[array]
            own = torch.from_numpy(wanted[part] - (self.ends[array] - len(tensor)))
            gathered.index_copy_(0, torch.from_numpy(places[part]), tensor.index_select(0, own).float())

    def give_back(self) -> None:
        """Unmap all pages; they are mapped again when they are needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for pages in self._maps:
                pages.madvise(mmap.MADV_DONTNEED)
        self._mapped_before = mapped_file_bytes()  # libraries that were loaded meanwhile included


def mapped_file_bytes() -> int:
    """Pages of files that are mapped into this process; 0 where the system does not tell."""
    if not MEMORY_STATUS.exists():
        return 0
    return int(MEMORY_STATUS.read_text().split()[2]) * mmap.PAGESIZE


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
