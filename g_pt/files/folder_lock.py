"""One writer per folder: a lock of the operating system, which ends with the process that holds it.

The package `filelock` locks on Windows. Elsewhere it would leave its file in every dataset and model folder, and
where a file system has no locks it takes a file for a lock, which a kill leaves locked: there we lock ourselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".writing.lock"


class FolderBusyError(ValueError):
    """Another process, or another lock of this one, is writing to a folder."""


@contextmanager
def folder_lock(folder: Path | str, writer: str = "harvest") -> Iterator[None]:
    """Be the only writer of a folder, which is made where it does not exist, until the block ends.

    The lock is on a file in the folder. The file is removed at the end; after a kill it stays and locks nothing.

    Args:
        folder: to be written to.
        writer: what is writing, for the message to others.

    Raises:
        FolderBusyError: another process, or another lock of this one, is writing there.
    """
    path = Path(folder) / LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    busy = f"another {writer} is writing to {path.parent}; wait until it ends, or name another folder"
    if fcntl is None:
        with library_lock(path, busy):
            yield
        return
    file = locked_file(path, busy)
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)  # while it is locked: nobody else can have the name by now
            os.close(file)


@contextmanager
def library_lock(path: Path, busy: str) -> Iterator[None]:
    """The lock of the package `filelock`, whose file is removed at the end."""
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderBusyError(busy) from error
    except OSError:  # read-only or full: the first write, if there is one, says so better
        yield
        return
    try:
        yield
    finally:
        lock.release()
        path.unlink(missing_ok=True)


def locked_file(path: Path, busy: str) -> int | None:
    """Descriptor of the locked file, or None where there are no locks or no file can be made."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # read-only or full: the first write, if there is one, says so better
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise FolderBusyError(busy) from error
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
