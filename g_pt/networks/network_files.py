"""Networks of a user's own in files: state dicts in safetensors, or in .pt without code.

P = parameters per network.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from g_pt.files.pickled import SUFFIXES, check_dense, read_pickled
from g_pt.files.schema import brief
from g_pt.files.tensor import read_tensor_entries, write_tensors
from g_pt.networks.parameters import ParameterLayout

# entries of whole checkpoints that hold the network, as Lightning, timm, fairseq and most loops of one's own call them
ENTRIES = ("state_dict", "model_state_dict", "model", "network", "net", "module", "params", "weights", "policy")
DEPTH = 5  # of a state dict within a checkpoint
COMPILED = "_orig_mod."
PREFIXES = (COMPILED, "module.", "model.", "network.", "net.")  # of torch.compile, DataParallel, Lightning


class UnwrappedWarning(UserWarning):
    """A file held more than a network, or under longer names; the message says what was taken."""


def read_network(path: Path, layout: ParameterLayout) -> Tensor:
    """Read a state dict and flatten it: (P,) float32.

    Raises:
        ValueError: the file is damaged or holds another architecture (the message names the tensor, the shape
            wanted and what came), or a tensor holds NaN or infinity.
        OSError: there is no such file.

    Warns:
        UnwrappedWarning: the names had prefixes of wrappers, or the file more than a network.
    """
    tensors = fitting_names(read_state_dict(path), layout)
    for name in layout.names:
        if name in tensors and not tensors[name].is_floating_point():
            raise ValueError(f"{path}: tensor {name!r} must hold floating-point numbers, got {tensors[name].dtype}")
    try:
        layout.check(tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    dense = {}
    for name in layout.names:
        dense[name] = tensors[name].float()
        if not dense[name].isfinite().all():
            raise ValueError(f"{path}: tensor {name!r} holds NaN or infinity; an update needs finite parameters")
    return layout.flatten(dense)


def bare_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file under their own names, whatever wrapper's prefix all of them have.

    For a first look at what network it is: nothing is warned of. Raises as `read_state_dict`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnwrappedWarning)
        tensors = read_state_dict(path)
    while prefix := next((p for p in PREFIXES if tensors and all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return {name.replace(COMPILED, ""): tensor for name, tensor in tensors.items()}


def fitting_names(tensors: dict[str, Tensor], layout: ParameterLayout) -> dict[str, Tensor]:
    """The tensors without the prefixes of wrappers, where the layout's own names are not there as they are."""
    while tensors and not set(layout.names) <= set(tensors):
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is not None:
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        elif any(COMPILED in name for name in tensors):  # a part of the network was compiled
            prefix = COMPILED
            tensors = {name.replace(COMPILED, ""): tensor for name, tensor in tensors.items()}
        else:
            break
        warnings.warn(f"left the prefix {prefix!r} of the tensors' names out", UnwrappedWarning, stacklevel=3)
    return tensors


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Named dense tensors of a .safetensors file, or of a file of torch.save: a state dict, or a checkpoint with one.

    Raises:
        ValueError: the file is damaged, or holds no state dict; the message says what it holds.
        OSError: there is no such file.

    Warns:
        UnwrappedWarning: the file holds more than a state dict.
    """
    if path.suffix == ".safetensors":
        read_tensor_entries(path)  # says what is wrong in words, where the library names its own errors
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a valid safetensors file: {error}") from error
    if path.suffix not in SUFFIXES:
        if not path.exists():
            raise FileNotFoundError(f"there is no file {path}")
        raise ValueError(f"{path} must be a .safetensors file, or {' / '.join(SUFFIXES)}")
    tensors = find_tensors(read_pickled(path), path)
    for name, tensor in tensors.items():
        check_dense(tensor, f"{path}: tensor {brief(name)}")
    return tensors


def find_tensors(content: Any, path: Path, depth: int = 0) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the part of a checkpoint that is one."""
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} must hold a state dict (names to tensors), as torch.save(module.state_dict(), ...), got a "
            f"{type(content).__name__}"
        )
    part = next((e for e in ENTRIES if isinstance(content.get(e), Mapping) and content[e]), None)
    if part is not None:  # a state dict has none; a checkpoint may hold tensors beside it
        if depth == DEPTH:
            raise ValueError(f"{path} must hold a state dict, got one that is nested in {DEPTH} others")
        warnings.warn(f"took the network from the entry {part!r} of the file", UnwrappedWarning, stacklevel=4 + depth)
        return find_tensors(content[part], path, depth + 1)
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(
            f"{path} must hold a state dict (names to tensors), as torch.save(module.state_dict(), ...), or one under "
            f"{', '.join(ENTRIES[:3])}; its entries are {brief(sorted(map(str, content)))}"
        )
    if wrong := [name for name in tensors if not isinstance(name, str)]:
        raise ValueError(f"{path} must name its tensors by strings, as a state dict does, got {brief(wrong[0])}")
    if others := [name for name in content if name not in tensors]:
        warnings.warn(f"left out {brief(others)}, which are no tensors", UnwrappedWarning, stacklevel=4)
    return tensors


def write_network(path: Path, params: Tensor, layout: ParameterLayout, metadata: dict[str, str] | None = None) -> None:
    """Write raw parameters (P,) as a safetensors state dict with the module's own names."""
    tensors = {name: tensor.contiguous() for name, tensor in layout.unflatten(params.cpu()).items()}
    write_tensors(path, tensors, {"format": "pt", **(metadata or {})})
