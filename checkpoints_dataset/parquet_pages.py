"""Sizes that the pages of a parquet file claim, which its reader asks for before it unpacks anything.

A page begins with a header in Thrift's compact protocol: fields 2 and 3 are its bytes unpacked and packed. See
https://github.com/apache/parquet-format and Thrift's thrift-compact-protocol.md.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from g_pt.files.schema import brief

STOP, TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 11, 12
DEPTH = 8


def check_pages(path: Path, columns: list[Any]) -> None:
    """Compare the pages of columns with what the file's metadata say, which were checked before.

    Args:
        path: the file.
        columns: their metadata, as `pyarrow.parquet` gives them.

    Raises:
        ValueError: pages claim more bytes than their column, or cannot be read.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for column in columns:
            first = min(offset for offset in (column.dictionary_page_offset, column.data_page_offset) if offset)
            position, end, unpacked = first, first + column.total_compressed_size, 0
            while position < end:
                header_bytes, page_unpacked, page_packed = read_page(data, position)
                position += header_bytes + page_packed
                unpacked += header_bytes + page_unpacked
            if unpacked > column.total_uncompressed_size or position != end:
                raise ValueError(
                    f"pages of column {brief(column.path_in_schema)} claim {unpacked:,} bytes, and end at byte "
                    f"{position:,}; the metadata say {column.total_uncompressed_size:,} and {end:,}"
                )


def read_page(data: mmap.mmap, position: int) -> tuple[int, int, int]:
    """Bytes of the header of the page there, and of the page unpacked and packed."""
    try:
        sizes, end = read_struct(data, position, 0)
    except IndexError as error:
        raise ValueError(f"there is no page at byte {position:,}") from error
    unpacked, packed = sizes.get(2, -1), sizes.get(3, -1)
    if unpacked < 0 or packed < 0:
        raise ValueError(f"the page at byte {position:,} does not say how long it is")
    return end - position, unpacked, packed


def read_struct(data: mmap.mmap, at: int, depth: int) -> tuple[dict[int, int], int]:
    """Whole numbers among the fields of a structure, by the fields' numbers, and where it ends."""
    found, field = {}, 0
    while (head := data[at]) != STOP:
        at += 1
        kind, step = head & 15, head >> 4
        if step:
            field += step
        else:
            field, at = read_number(data, at)
        if kind in (TRUE, FALSE):
            continue
        if BYTE < kind < DOUBLE:
            found[field], at = read_number(data, at)
        else:
            at = skip(data, at, kind, depth)
    return found, at + 1


def skip(data: mmap.mmap, at: int, kind: int, depth: int) -> int:
    """Where a value of another kind than whole numbers ends."""
    if depth > DEPTH:
        raise IndexError
    if kind == STRUCT:
        return read_struct(data, at, depth + 1)[1]
    if kind in (TRUE, FALSE, BYTE):
        return at + 1
    if kind == DOUBLE:
        return at + 8
    if kind == BINARY:
        length, at = read_varint(data, at)
        return at + length
    if kind < DOUBLE:
        return read_varint(data, at)[1]
    if kind not in (LIST, SET):  # no header of a page has a table
        raise IndexError
    count, each = data[at] >> 4, data[at] & 15
    at += 1
    if count == 15:
        count, at = read_varint(data, at)
    for _ in range(count):
        at = skip(data, at, each, depth + 1)
        data[at]  # a list cannot be longer than what holds it
    return at


def read_number(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A signed number, in zigzags, and where it ends."""
    value, at = read_varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def read_varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = 0
    for place in range(10):
        byte = data[at + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, at + place + 1
    raise IndexError
