"""Files that may be gzipped, unpacked to a stated size at most: a megabyte can claim to be a gigabyte."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from g_pt.files.atomic import check_regular
from g_pt.files.schema import one_line

MAGIC = b"\x1f\x8b"


def read_unpacked(path: Path, most: int) -> bytes:
    """The content of a file, unpacked where it is gzipped, or is called so.

    Raises:
        ValueError: it is damaged, or has more than `most` bytes.
        OSError: there is no such file, or it is no regular one.
    """
    check_regular(path)
    with open(path, "rb") as file:
        packed = file.read(len(MAGIC)) == MAGIC or path.suffix == ".gz"
        file.seek(0)
        try:
            data = gzip.GzipFile(fileobj=file).read(most + 1) if packed else file.read(most + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {one_line(str(error))}. Copy or download it again") from error
    if len(data) > most:
        raise ValueError(f"{path} has more than {most:,} bytes{' when it is unpacked' if packed else ''}")
    return data
