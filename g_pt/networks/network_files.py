"""Networks of a user's own in files: state dicts in safetensors, or in .pt without code.

P = parameters per network.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from g_pt.files.tensor import read_tensor_entries, write_tensors
from g_pt.networks.parameters import ParameterLayout

PICKLED = (".pt", ".pth")


def read_network(path: Path, layout: ParameterLayout) -> Tensor:
    """Read a state dict and flatten it: (P,) float32.

    Raises:
        ValueError: the file is damaged or holds another architecture (the message names the tensor, the shape
            wanted and what came), or a tensor holds NaN or infinity.
        OSError: there is no such file.
    """
    tensors = read_state_dict(path)
    try:
        layout.check(tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    dense = {}
    for name in layout.names:
        if tensors[name].layout != torch.strided or tensors[name].is_meta:
            raise ValueError(f"{path}: tensor {name!r} must be dense, with values")
        dense[name] = tensors[name].float()
        if not dense[name].isfinite().all():
            raise ValueError(f"{path}: tensor {name!r} holds NaN or infinity; an update needs finite parameters")
    return layout.flatten(dense)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Named tensors of a .safetensors file, or of a .pt file that holds tensors only."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        read_tensor_entries(path)  # says what is wrong in words, where the library names its own errors
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a valid safetensors file: {error}") from error
    if path.suffix not in PICKLED:
        raise ValueError(f"{path} must be a .safetensors file, or {' / '.join(PICKLED)}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damaged bytes lead to
        raise ValueError(
            f"{path} cannot be read as tensors without running code ({type(error).__name__}): damaged, or more than "
            "tensors; write it with torch.save(module.state_dict(), ...)"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} must hold a state dict (names to tensors), as torch.save(module.state_dict(), ...)")
    return content


def write_network(path: Path, params: Tensor, layout: ParameterLayout, metadata: dict[str, str] | None = None) -> None:
    """Write raw parameters (P,) as a safetensors state dict with the module's own names."""
    tensors = {name: tensor.contiguous() for name, tensor in layout.unflatten(params.cpu()).items()}
    write_tensors(path, tensors, {"format": "pt", **(metadata or {})})
