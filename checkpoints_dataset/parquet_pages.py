"""Sizes that the pages of a parquet file claim, which its reader asks for before it unpacks anything.

A page begins with a header in Thrift's compact protocol: fields 2 and 3 are its bytes unpacked and packed. See
https://github.com/apache/parquet-format and Thrift's thrift-compact-protocol.md.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from g_pt.files.schema import brief

STOP, TRUE, FALSE, BYTE, DOUBLE, BINARY, STRUCT = 0, 1, 2, 3, 7, 8, 12  # kinds of fields; between are whole numbers
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
            name = brief(column.path_in_schema)
            position = min(offset for offset in (column.dictionary_page_offset, column.data_page_offset) if offset)
            end, left = position + column.total_compressed_size, column.total_uncompressed_size
            while position < end:
                try:
                    sizes, begin = read_struct(data, position)
                    unpacked, packed = sizes[2], sizes[3]
                except (LookupError, OverflowError) as error:
                    raise ValueError(f"column {name} has no page at byte {position:,}") from error
                left -= begin - position + unpacked
                position = begin + packed
                if left < 0 or min(unpacked, packed) < 0:
                    raise ValueError(
                        f"pages of column {name} claim more than the {column.total_uncompressed_size:,} bytes of the "
                        "metadata"
                    )


def read_struct(data: mmap.mmap, at: int, depth: int = 0) -> tuple[dict[int, int], int]:
    """Whole numbers among the fields of a structure, by the fields' numbers, and where it ends."""
    found, field = {}, 0
    while (head := data[at]) != STOP:
        at, kind, step = at + 1, head & 15, head >> 4
        field, at = (field + step, at) if step else read_number(data, at)
        if BYTE < kind < DOUBLE:
            found[field], at = read_number(data, at)
        elif kind == BINARY:
            length, at = read_varint(data, at)
            at += length
        elif kind == STRUCT and depth < DEPTH:
            at = read_struct(data, at, depth + 1)[1]
        elif kind not in (TRUE, FALSE):
            raise IndexError  # no header of a page has any other
    return found, at + 1


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
