"""Files of `torch.save`: read without running code, in memory bounded by the size of the file; written atomically."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Sized
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g_pt.files.atomic import atomic_path, check_regular
from g_pt.files.schema import brief, one_line

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
ARCHIVE = b"PK\x03\x04"
MAX_PICKLE_BYTES = 5_000_000  # of names, shapes and numbers; those of 30,000 tensors have about as many
COPIES = ("bytearray", "encode", "_rebuild_device_tensor_from_numpy", "_rebuild_device_tensor_from_cpu_tensor")
OLD_PICKLES = 5  # of a file before PyTorch 1.6: two numbers, the machine, the content, the names of the storages


def read_pickled(path: Path) -> Any:
    """`torch.load` restricted to tensors and plain values; maps the file where its format allows.

    Raises:
        ValueError: the file is damaged, needs code to be read, or would unpack to more than its size.
        OSError: there is no such file, or it is no regular one.
    """
    check_regular(path)
    with open(path, "rb") as file:
        archive = file.read(4) == ARCHIVE
    check_archive(path) if archive else check_old_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # asks for an issue where the file's pickle is of another protocol
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # torch raises whatever the damaged bytes lead to
        raise ValueError(unreadable(path, error)) from error


def unreadable(path: Path, error: Exception) -> str:
    """Why a pickle is refused."""
    return (
        f"{path} cannot be read as tensors without running code ({type(error).__name__}): damaged, or more than "
        "tensors; write it with torch.save(module.state_dict(), ...)"
    )


def check_archive(path: Path) -> None:
    """Compare what the parts of an archive would unpack to with its size; torch itself compresses nothing."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            names = [part.filename for part in parts if part.filename.endswith(".pkl")]
            unpacked = sum(part.file_size for part in parts)
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or unpacked > size:
                raise ValueError(
                    f"{path} is compressed inside, which torch.save never does: it would unpack {size:,} bytes to "
                    f"{unpacked:,}; unpack it and save it again"
                )
            if sum(archive.getinfo(name).file_size for name in names) > MAX_PICKLE_BYTES:
                raise ValueError(too_much(path))
            for name in names:
                rehearse(path, io.BytesIO(archive.read(name)))
    except (zipfile.BadZipFile, NotImplementedError, OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as tensors, damaged: {one_line(str(error), 120)}") from error


def check_old_file(path: Path) -> None:
    """Find where the pickles of a file of PyTorch before 1.6 end: its tensors lie behind the last of them."""
    with open(path, "rb") as file:
        head = io.BytesIO(file.read(MAX_PICKLE_BYTES + 1))
    for _ in range(OLD_PICKLES if path.stat().st_size > MAX_PICKLE_BYTES else 1):
        rehearse(path, head)


class Stand(dict[Any, Any]):
    """Takes the place of everything that a pickle calls, counts what it is called with, and copies nothing."""

    left = 0  # entries of arguments that may still come

    def __init__(self, *arguments: Any) -> None:
        type(self).left -= sum(len(argument) for argument in arguments if isinstance(argument, Sized))
        if self.left < 0:
            raise OverflowError

    __hash__ = object.__hash__  # type: ignore[assignment]


class Rehearsal(pickle._Unpickler):  # in Python: that in C takes gigabytes for one number
    """Reads a pickle without building anything that it names."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")
        self.stand = type("Stand", (Stand,), {"left": MAX_PICKLE_BYTES})

    def find_class(self, module: str, name: str) -> type[Stand]:
        """What is called there, whatever it is."""
        if name in COPIES:  # what takes, or copies, any memory for a few bytes
            raise OverflowError
        return self.stand

    def persistent_load(self, pid: Any) -> Stand:
        """A tensor's storage."""
        return self.stand()


def too_much(path: Path) -> str:
    """Why a file is refused that holds more than names and tensors."""
    return f"{path} has more than {MAX_PICKLE_BYTES:,} bytes besides the tensors; save those only"


def rehearse(path: Path, file: io.BytesIO) -> None:
    """Refuse a pickle that would copy what it holds again and again: a few bytes for each copy of megabytes."""
    try:
        Rehearsal(file).load()
    except OverflowError:
        raise ValueError(
            f"{path} cannot be read as tensors: its pickle asks for far more memory than it has bytes"
        ) from None
    except Exception as error:  # whatever the damaged bytes lead to
        too_long = isinstance(error, EOFError) and file.tell() > MAX_PICKLE_BYTES
        raise ValueError(too_much(path) if too_long else unreadable(path, error)) from error


def check_dense(tensor: Tensor, where: str) -> None:
    """Refuse a tensor that is not plain numbers in memory: nested, sparse, quantised, without values, or stretched."""
    kinds = {
        "nested": tensor.is_nested,
        "quantised": not tensor.is_nested and tensor.is_quantized,
        "sparse": not tensor.is_nested and tensor.layout != torch.strided,
        "without values (on the meta device)": tensor.is_meta,
        "of a class of its own": type(tensor) not in (Tensor, torch.nn.Parameter),
    }
    if found := [kind for kind, holds in kinds.items() if holds]:
        raise ValueError(f"{where} must be a dense tensor with values, got one that is {found[0]}")
    held = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > max(held, 1 << 20):
        raise ValueError(
            f"{where} has shape {brief(tuple(tensor.shape))}, but only {held:,} bytes of values: stretched"
        )


def write_pickled(path: Path, content: Any) -> None:
    """Write with `torch.save`, atomically, for programs that read nothing else.

    Raises:
        OSError: the file cannot be written; an older one stays as it was.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OSError(f"{path} cannot be written: {one_line(str(error), 120)}") from error
