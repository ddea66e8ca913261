"""Files that are there whole or not at all, whenever the process is killed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"
MAX_JSON_BYTES = 500_000_000  # the largest manifests, of shards of millions of runs


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there takes its name when the block ends well.

    After an error (a full disk, say) the temporary file is removed and an older `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def written_by_living_process(temporary: Path) -> bool:
    """Whether another process of this machine, named in a temporary file's name, is still alive."""
    pid = temporary.name.removesuffix(TEMPORARY).rpartition(".")[2]
    if not pid.isdigit() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it lives, but is another user's
    return True


def write_json(path: Path | str, value: Any) -> None:
    """Write indented JSON atomically; the same value gives the same bytes."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read JSON; an error names the file.

    Raises:
        ValueError: the file is not JSON, nested too deep, or larger than anything this program writes.
    """
    if (size := Path(path).stat().st_size) > MAX_JSON_BYTES:
        raise ValueError(f"{path} has {size} bytes, more than any JSON file of this program")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # the first holds JSONDecodeError and UnicodeDecodeError
        raise ValueError(f"{path} is not valid JSON ({error}): damaged, or not written by this program") from error


def fingerprint(path: Path | str) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with open(path, "rb") as file:
        return {"bytes": Path(path).stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
