"""Writing safetensors whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from g_pt.atomic_files import atomic_path


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write contiguous named tensors atomically.

    Raises:
        OSError: the file cannot be written; an older one stays as it was.
    """
    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=metadata)
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(f"{path} cannot be written: {error}") from error
