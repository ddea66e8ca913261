"""Files of `torch.save`: read without running code, in memory bounded by the size of the file; written atomically."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g_pt.files.atomic import atomic_path, check_regular
from g_pt.files.schema import brief, one_line

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
ARCHIVE = b"PK\x03\x04"
MAX_PICKLE_BYTES = 5_000_000  # of names, shapes and numbers; those of 30,000 tensors have about as many


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
        raise ValueError(
            f"{path} cannot be read as tensors without running code ({type(error).__name__}): damaged, or more than "
            "tensors; write it with torch.save(module.state_dict(), ...)"
        ) from error


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
                raise ValueError(
                    f"{path} has more than {MAX_PICKLE_BYTES:,} bytes besides the tensors; save those only"
                )
            refuse_buffers(path, b"".join(archive.read(name) for name in names))
    except (zipfile.BadZipFile, NotImplementedError, OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as tensors, damaged: {one_line(str(error), 120)}") from error


def check_old_file(path: Path) -> None:
    """Refuse large files of PyTorch before 1.6: nothing says how much of them is tensors."""
    if (size := path.stat().st_size) > MAX_PICKLE_BYTES:
        raise ValueError(
            f"{path} cannot be read as tensors: it was written by PyTorch before 1.6, or by something else, and has "
            f"{size:,} bytes; load and save it again with a newer version"
        )
    refuse_buffers(path, path.read_bytes())


def refuse_buffers(path: Path, pickled: bytes) -> None:
    """Refuse what torch would let ask for any memory by a number alone."""
    if b"bytearray" in pickled:
        raise ValueError(f"{path} cannot be read as tensors: it holds a bytearray; save tensors only")


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
