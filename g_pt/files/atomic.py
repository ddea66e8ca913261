"""Files and folders that are there whole or not at all, whenever the process is killed.

What is being written has a temporary name beside its own, which no file of a user's has: `.NAME.g-pt-PID-TOKEN.tmp`.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from g_pt.files.schema import brief, one_line

TEMPORARY = re.compile(
    r"(?:\.(?=.*\.g-pt-))?(?P<name>.+?)\.(?:g-pt-)?(?P<pid>[0-9]{1,10})(?:-[0-9a-f]{8})?\.tmp"
)  # earlier ones too
# a full disk or quota, a file too large, a broken disk, a folder that is not to be written
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES}
# of the errors of torch.save and save_file on such a disk
WRITER_WORDS = re.compile(r"SafetensorError|PytorchStreamWriter|inline_container|iostream|Parent directory|os error")
MAX_JSON_BYTES = 500_000_000  # the largest manifests, of shards of millions of runs


def temporary_path(path: Path) -> Path:
    """A new name beside `path` for what will be renamed to it; it says which process is writing."""
    return path.with_name(f".{path.name[:200]}.g-pt-{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there takes its name when the block ends well.

    After an error (a full disk, say) the temporary file is removed and an older `path` stays as it was. The file can
    be read by whom the umask lets read, also where a library writes it for its owner only.

    Raises:
        OSError: the file cannot be written; the message names it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: no file of that name can be written")
    temporary = temporary_path(path)
    try:
        mode = umask_mode(path.parent)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def named_disk_errors(path: Path | str) -> Iterator[None]:
    """Let what libraries raise where a disk is full, or a folder gone, name the path that was being written.

    Raises:
        OSError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
    except Exception as error:  # the serialisers of torch and safetensors have their own
        if not WRITER_WORDS.search(f"{type(error).__name__} {error}"):
            raise
        raise OSError(f"{path} cannot be written: the disk is full, or the folder is gone") from error


@contextmanager
def atomic_folder(folder: Path, check_ours: Callable[[Path], object]) -> Iterator[Path]:
    """Give a new temporary folder beside `folder`; it takes the name when the block ends well.

    Args:
        folder: the name; what is there is replaced where `check_ours` allows it. What a process that was killed has
            left under a temporary name of it is removed.
        check_ours: raises for a folder that holds anything but what was written here before.
    """
    if folder.exists():
        check_ours(folder)
    folder = Path(os.path.abspath(folder))  # "." has no name
    folder.parent.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.glob(f".{glob.escape(folder.name[:200])}.g-pt-*.tmp"):
        if other.is_dir() and is_leftover(other, lambda name: name == folder.name[:200]):
            shutil.rmtree(other, ignore_errors=True)
    temporary = temporary_path(folder)
    temporary.mkdir()
    try:
        yield temporary
        follow_umask(temporary)
        if folder.exists():
            check_ours(folder)  # once more: the block may have taken hours
            earlier = temporary_path(folder)
            folder.rename(earlier)
            temporary.rename(folder)
            shutil.rmtree(earlier)
        else:
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def follow_umask(folder: Path) -> None:
    """Let the tensors of a folder be read by whom the umask lets read; their library writes them for the owner only."""
    mode = umask_mode(folder)
    for path in folder.rglob("*.safetensors"):
        if path.is_file() and not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o600:
            path.chmod(mode)


def umask_mode(folder: Path) -> int:
    """Mode of a new file there; asking for the umask itself would change it for other threads."""
    probe = temporary_path(folder / "mode")
    file = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(file).st_mode)
    finally:
        os.close(file)
        probe.unlink()


def is_leftover(path: Path, is_ours: Callable[[str], object]) -> bool:
    """Whether a process that is dead by now has left a temporary file or folder of one of our own names."""
    match = TEMPORARY.fullmatch(path.name)
    return match is not None and bool(is_ours(match["name"])) and not is_another_living_process(int(match["pid"]))


def remove_leftovers(folder: Path, is_ours: Callable[[str], object] = bool) -> None:
    """Remove temporary files of names of ours that processes which are dead by now have left in a folder."""
    for path in folder.iterdir():
        if (is_ours is not bool or ".g-pt-" in path.name) and path.is_file() and is_leftover(path, is_ours):
            path.unlink(missing_ok=True)


def is_another_living_process(pid: int) -> bool:
    """Whether another process of this machine has this number."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # it lives, but is another user's
    return True


def check_regular(path: Path) -> None:
    """Refuse what is no file, before it is opened: reading a pipe or a device may never end.

    Raises:
        FileNotFoundError: there is nothing.
        OSError: there is a folder, a pipe, a socket or a device.
    """
    if path.is_file():
        return
    if not path.exists():
        raise FileNotFoundError(f"there is no file {one_line(str(path))}")
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(path.stat().st_mode), "a device")
    raise OSError(f"{one_line(str(path))} must be a regular file, got {kind}")


def write_json(path: Path | str, value: Any) -> None:
    """Write indented JSON atomically; the same value gives the same bytes."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=False) + "\n")


def read_json(path: Path | str, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read JSON; an error names the file.

    Raises:
        ValueError: the file is not JSON, nested too deep, names an entry twice, or is larger than `max_bytes`.
        OSError: there is no such file, or it is no regular one.
    """
    path = Path(path)
    check_regular(path)
    if (size := path.stat().st_size) > max_bytes:
        raise ValueError(f"{path} has {size:,} bytes, more than any such file of this program ({max_bytes:,})")
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_entries)
    except (ValueError, RecursionError) as error:  # the first holds JSONDecodeError and UnicodeDecodeError
        raise ValueError(
            f"{path} is not valid JSON ({one_line(str(error), 120)}): damaged, or not written by this program"
        ) from error


def read_json_object(path: Path | str, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON object; raises as `read_json` does, and a ValueError for any other value."""
    content = read_json(path, max_bytes=max_bytes)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {brief(content)}")
    return content


def unique_entries(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object that names no entry twice: readers would differ in which of them they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the entry {brief(twice)} comes twice")
    return found


def fingerprint(path: Path | str) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    check_regular(Path(path))
    with open(path, "rb") as file:
        return {"bytes": Path(path).stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
