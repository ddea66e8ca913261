"""One writer per folder: a lock of the operating system, which ends with the process that holds it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checkpoints_dataset.format import StoreError

try:
    import fcntl
except ImportError:  # Windows: folders are not locked there
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".writing.lock"


@contextmanager
def folder_lock(folder: Path | str) -> Iterator[None]:
    """Be the only writer of a folder, which is made where it does not exist, until the block ends.

    The lock is on a file in the folder. The file is removed at the end; after a kill it stays and locks nothing.

    Raises:
        StoreError: another process, or another lock of this one, is writing there.
    """
    path = Path(folder) / LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    file = locked_file(path)
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)  # while it is locked: nobody else can have the name by now
            os.close(file)


def locked_file(path: Path) -> int | None:
    """Descriptor of the locked file, or None where there are no locks or no file can be made."""
    if fcntl is None:
        return None
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # read-only or full: the first write, if there is one, says so better
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise StoreError(
                f"another harvest is writing to {path.parent}; wait until it ends, or name another folder"
            ) from error
        except OSError:  # a file system without locks
            os.close(file)
            return None
        if is_file_at(path, file):
            return file
        os.close(file)  # its last holder removed it between opening and locking: make a new one


def is_file_at(path: Path, file: int) -> bool:
    """Whether the path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
