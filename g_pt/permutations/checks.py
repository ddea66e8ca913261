"""Does a network compute the same after its units were reordered?"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations.blocks import Blocks, reorder
from g_pt.runtime.float_dtype import OneFloatDtype, to_float_dtype

TOLERANCE = 1e-10  # in float64, relative to the largest output
NUM_DRAWS = 2


@dataclass(frozen=True)
class Inputs:
    """What a network is called with: tensors, or lists, tuples and dicts of them."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module, example: Any) -> Inputs:
        """A tuple holds several arguments; so does a list, and a dict, where `forward` has a place for each entry."""
        if isinstance(example, tuple):
            return cls(example)
        takes = inspect.signature(module.forward)
        try:
            if isinstance(example, dict):
                takes.bind(**example)
                return cls((), example)
            if isinstance(example, list):
                takes.bind(*example)
                return cls(tuple(example))
        except TypeError:
            pass
        return cls((example,))


def check_function_is_kept(blocks: Mapping[str, tuple[Blocks, ...]], module: nn.Module, inputs: Inputs) -> None:
    """Compare outputs of random parameters before and after random reorderings, in float64 and eval mode.

    Args:
        blocks: of every axis of every tensor, as `PermutationSpec.blocks` fills them in.
        module: the network; it is copied.
        inputs: of its forward pass.

    Raises:
        ValueError: outputs differ by more than 1e-10 of their scale, or are not finite.
    """
    generator = torch.Generator().manual_seed(0)
    network, inputs = in_float64(module, inputs)
    tensors = random_tensors(network, generator)
    before = _outputs(network, tensors, inputs)
    if not all(bool(out.isfinite().all()) for out in before):
        raise ValueError(
            f"{type(module).__name__} gives infinite or undefined outputs for random parameters and inputs, so a "
            "spec cannot be verified; pass an example_input of the range that the network expects"
        )
    for _ in range(NUM_DRAWS):
        moves = {group: _move(units, generator) for group, units in _units(blocks).items()}
        permuted = {name: reorder(tensor[None], blocks[name], moves)[0] for name, tensor in tensors.items()}
        gap = _gap(before, _outputs(network, permuted, inputs))
        if not gap <= TOLERANCE:
            raise ValueError(f"permuting units by this spec changes the outputs by {gap:.2e} (allowed: {TOLERANCE})")
    others = random_tensors(network, generator)
    for group in moves:
        redrawn = {name: others[name] for name, axes in blocks.items() if group in _units({name: axes})}
        if _gap(before, _outputs(network, tensors | redrawn, inputs)) <= TOLERANCE:
            warnings.warn(
                f"no output depends on the tensors of group {group!r}, so that its order was not verified", stacklevel=4
            )


def in_float64(module: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs]:
    """A copy of the module on the CPU, in float64 and eval mode, and its inputs to match; integer inputs stay."""

    def converted(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.detach().cpu().double() if value.is_floating_point() else value.cpu()

    args, kwargs = tree_map(converted, (inputs.args, dict(inputs.kwargs)))
    return to_float_dtype(copied(module).cpu(), torch.float64).eval(), Inputs(args, kwargs)


def copied(module: nn.Module) -> nn.Module:
    """A deep copy, but for tensors that a forward pass left in the module: those are made anew by the next one.

    The older `weight_norm` and `spectral_norm` keep the weight of the last pass so.
    """
    left = (v for m in module.modules() for v in vars(m).values() if isinstance(v, Tensor) and not v.is_leaf)
    return copy.deepcopy(module, {id(tensor): torch.empty(0) for tensor in left})


def random_tensors(network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """A value for each tensor of the layout, such that signals neither vanish nor explode.

    Tensors that are positive throughout (weights of norms, running variances) stay so: they may be roots or
    divisors. Buffers are spread around their values, since tables and masks have a meaning.
    """
    parameters = {id(p) for p in network.parameters()}
    tensors = {}
    state = network.state_dict(keep_vars=True)
    for name in ParameterLayout.from_module(network).names:
        value = state[name].detach()
        spread = 0.5 + torch.rand(value.shape, generator=generator, dtype=value.dtype)
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        if bool((value > 0).all()) or (id(state[name]) not in parameters and bool(value.any())):
            tensors[name] = value * spread
        elif value.dim() > 1:
            tensors[name] = noise * (value[0].numel() ** -0.5)
        else:
            tensors[name] = 0.5 * noise
    return tensors


def _units(blocks: Mapping[str, tuple[Blocks, ...]]) -> dict[str, int]:
    every = (block for axes in blocks.values() for axis in axes for block in axis)
    return {block.group: block.units for block in every if block.group is not None}


def _move(units: int, generator: torch.Generator) -> Tensor:
    """A random permutation (1, units) that is not the identity, if there is one."""
    perm = torch.randperm(units, generator=generator)
    return (perm.roll(1) if torch.equal(perm, torch.arange(units)) else perm)[None]


def _gap(before: list[Tensor], after: list[Tensor]) -> float:
    """Largest difference of an output, relative to its largest entry."""
    tiny = torch.finfo(torch.float64).tiny
    gaps = [(a - b).abs().max() / a.abs().max().clamp(min=tiny) for a, b in zip(before, after, strict=True)]
    return torch.stack(gaps).max().item()  # the maximum of numbers with a nan is nan


def _outputs(network: nn.Module, tensors: Mapping[str, Tensor], inputs: Inputs) -> list[Tensor]:
    args, kwargs = copy.deepcopy((inputs.args, dict(inputs.kwargs)))  # a network may write into what it is given
    with torch.no_grad(), plain_float64():
        found = list(_tensors_in(torch.func.functional_call(network, dict(tensors), args, kwargs)))
    if not found:
        raise ValueError(f"{type(network).__name__} returns no tensor, so no spec of it can be verified")
    return [out.double() for out in found if out.numel()]


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors_in(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors_in(part)


@contextmanager
def plain_float64() -> Iterator[None]:
    """What a forward pass creates or casts is float64, and attention is not fused into one opaque operation."""
    dtype, fused = torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
    torch.set_default_dtype(torch.float64)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with OneFloatDtype(torch.float64):
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.backends.mha.set_fastpath_enabled(fused)
