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

from g_pt.files.atomic import atomic_path, check_regular, unique_entries
from g_pt.files.schema import brief, one_line

# a header of 100,000 tensors has about 10 MB; the library itself refuses above 100 MB
MAX_HEADER_BYTES = 50_000_000
# of a header for each tensor, its name aside, and for the file; the library pads with less than eight spaces
MAX_AXES = 64
ENTRY_BYTES, FREE_BYTES = 1000, 4096
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
        if metadata and len(metadata) > 1:
            order_metadata(temporary)


def order_metadata(path: Path) -> None:
    """Write a header with its metadata in the order of their names: the library's own differs from call to call."""
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(ordered) <= length:  # always so: the same entries, written as shortly as the library does
            file.seek(8)
            file.write(ordered.ljust(length))


def read_tensor_entries(path: Path) -> dict[str, TensorEntry]:
    """Read the header of a safetensors file and check it against the file's size; no tensor is read.

    What passes cannot ask for more memory than the file has bytes, and no two tensors share any.

    Raises:
        ValueError: the file is no safetensors file, truncated or altered; the message says where.
    """
    check_regular(path)
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
            header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=unique_entries)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a valid safetensors file: its header is not JSON, or not of one meaning "
                f"({one_line(str(error), 120)})"
            ) from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} is damaged: its header must be a JSON object, got a {type(header).__name__}")
    check_padding(path, header, length)
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
            raise ValueError(f"{path} is damaged: tensor {brief(name)} must begin at byte {position}, got {start}")
        position = stop
    if position != size - 8 - length:
        raise ValueError(f"{path} is truncated or altered: its tensors have {position} bytes, got {size - 8 - length}")
    return entries


def check_padding(path: Path, header: dict[str, Any], length: int) -> None:
    """Refuse a header that is far longer than what it says: every reader of the file would read all of it."""
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError(f"{path} is damaged: its __metadata__ must be an object of strings, got {brief(metadata)}")
    letters = sum(map(len, header)) + sum(map(len, metadata)) + sum(map(len, metadata.values()))
    said = 12 * letters + ENTRY_BYTES * (len(header) + len(metadata)) + FREE_BYTES  # a letter may be a \\uXXXX pair
    if length > said:
        raise ValueError(
            f"{path} is damaged: its header of {length:,} bytes is far longer than what it says of tensors"
        )


def checked_entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Type, shape and span of one tensor, where they fit each other."""
    damaged = f"{path} is damaged: tensor {brief(name)}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ValueError(f"{damaged} must have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"{damaged} is {brief(dtype)}; it must be one of {sorted(ITEM_BYTES)}")
    for what, values in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(values, list) or len(values) > MAX_AXES or not all(map(is_size, values)):
            raise ValueError(f"{damaged} must have whole numbers from 0 as {what}, got {brief(values)}")
    if len(offsets) != 2 or math.prod(shape) * ITEM_BYTES[dtype] != offsets[1] - offsets[0]:
        raise ValueError(
            f"{damaged} of shape {brief(tuple(shape))} and type {dtype} does not fit its bytes {brief(offsets)}"
        )
    return dtype, tuple(shape), (offsets[0], offsets[1])


def is_size(value: Any) -> bool:
    """Whether a value from JSON is a whole number that a file can have of anything."""
    return type(value) is int and 0 <= value < 2**63
