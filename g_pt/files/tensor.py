"""Writing safetensors whole or not at all, and reading the headers of those that come from anywhere."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from g_pt.files.atomic import atomic_path

# a header of 100,000 tensors has about 10 MB; the library itself refuses above 100 MB
MAX_HEADER_BYTES = 50_000_000
ITEM_BYTES = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1},
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1},
}


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a safetensors file: its type there (F32, ...), its shape, and where its bytes begin in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write contiguous named tensors atomically.

    Raises:
        OSError: the file cannot be written; an older one stays as it was.
    """
    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=metadata)
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(f"{path} cannot be written: {error}") from error


def read_tensor_entries(path: Path) -> dict[str, TensorEntry]:
    """Read the header of a safetensors file and check it against the file's size; no tensor is read.

    What passes cannot ask for more memory than the file has bytes, and no two tensors share any.

    Raises:
        ValueError: the file is no safetensors file, truncated or altered; the message says where.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        first = file.read(8)
        if len(first) < 8:
            raise ValueError(f"{path} is not a valid safetensors file: it has only {size} bytes")
        (length,) = struct.unpack("<Q", first)
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(
                f"{path} is not a valid safetensors file, or truncated: its header would have {length} bytes, the file "
                f"has {size}"
            )
        try:
            header = json.loads(file.read(length).decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a valid safetensors file: its header is not JSON ({type(error).__name__})"
            ) from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} is damaged: its header must be a JSON object, got a {type(header).__name__}")
    spans, entries = [], {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (start, stop) = checked_entry(path, name, entry)
        spans.append((start, stop, name))
        entries[name] = TensorEntry(dtype, shape, 8 + length + start)
    position = 0
    for start, stop, name in sorted(spans):
        if start != position:
            raise ValueError(f"{path} is damaged: tensor {name[:80]!r} must begin at byte {position}, got {start}")
        position = stop
    if position != size - 8 - length:
        raise ValueError(f"{path} is truncated or altered: its tensors have {position} bytes, got {size - 8 - length}")
    return entries


def checked_entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Type, shape and span of one tensor, where they fit each other."""
    damaged = f"{path} is damaged: tensor {name[:80]!r}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ValueError(f"{damaged} must have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"{damaged} is {str(dtype)[:40]!r}; it must be one of {sorted(ITEM_BYTES)}")
    for what, values in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(values, list) or not all(type(v) is int and v >= 0 for v in values):
            raise ValueError(f"{damaged} must have whole numbers from 0 as {what}, got {str(values)[:60]}")
    if len(offsets) != 2 or math.prod(shape) * ITEM_BYTES[dtype] != offsets[1] - offsets[0]:
        raise ValueError(
            f"{damaged} of shape {str(tuple(shape))[:60]} and type {dtype} does not fit its bytes {str(offsets)[:60]}"
        )
    return dtype, tuple(shape), (offsets[0], offsets[1])
