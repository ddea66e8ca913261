"""What commands write: refused before the work where it cannot be written or does not fit; JSON without NaN."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any


def check_writable(path: Path, flag: str) -> None:
    """Refuse a file or folder that could not be written after all the work."""
    folder = nearest_existing(path)
    if folder != path and not folder.is_dir():
        raise ValueError(f"{flag} {path} cannot be written: {folder} is no folder")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{flag} {path} cannot be written: no permission to write to {folder}")


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest one above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def check_file(path: Path, flag: str) -> None:
    """Refuse a file that could not be written after all the work."""
    if path.is_dir():
        raise ValueError(f"{flag} must be a file, {path} is a folder")
    check_writable(path, flag)


def check_fits(num_bytes: float, what: str) -> None:
    """Refuse what does not fit into the memory of this machine, before any of it is asked for."""
    if not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > memory:
        raise ValueError(
            f"{what} would take about {num_bytes / 2**30:,.1f} GiB of memory, this machine has {memory / 2**30:,.1f}: "
            "ask for less"
        )


def json_line(value: Any) -> str:
    """JSON of one line; numbers that JSON does not know, NaN and infinity, are null."""
    return json.dumps(without_nan(value), allow_nan=False)


def without_nan(value: Any) -> Any:
    """A value in which NaN and infinity are None."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
