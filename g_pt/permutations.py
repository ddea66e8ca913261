"""Which axes of a network's tensors can be reordered together without changing its function.

P = parameters per network, B = networks in a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from g_pt.parameters import ParameterLayout

# Layers that act on each unit alone: a reordering of units passes through them.
ELEMENTWISE = (
    nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus,
    nn.Dropout,
)  # fmt: skip
TOLERANCE = 1e-10


class AxisBlock(NamedTuple):
    """A stretch of an axis: `units` units of a group (None: fixed), each with `inner` neighbouring entries."""

    group: str | None
    units: int
    inner: int = 1


@dataclass(frozen=True)
class PermutationSpec:
    """For each tensor, the permutation group of each axis, or None where the order is fixed.

    `{"fc1.weight": ("hidden0", None), "fc1.bias": ("hidden0",), "fc2.weight": (None, "hidden0"), ...}` says
    that the rows of fc1 and the columns of fc2 are the same hidden units.
    """

    axes: Mapping[str, tuple[str | None, ...]]

    @classmethod
    def from_module(cls, module: nn.Module, input_shape: tuple[int, ...]) -> PermutationSpec:
        """Derive the spec of a sequence of Linear and element-wise layers, and verify it.

        Args:
            module: an `nn.Sequential`.
            input_shape: shape of one input, for the check that permuted networks compute the same.

        Raises:
            ValueError: a layer is of another kind, or the derived spec changes the function.
        """
        if not isinstance(module, nn.Sequential):
            raise ValueError(
                f"a permutation spec can be derived from an nn.Sequential, got {type(module).__name__}; "
                "write the spec by hand: PermutationSpec({tensor name: (group or None per axis)})"
            )
        linears = [name for name, layer in module.named_children() if isinstance(layer, nn.Linear)]
        axes: dict[str, tuple[str | None, ...]] = {}
        group_in: str | None = None
        for name, layer in module.named_children():
            if isinstance(layer, nn.Linear):
                group_out = None if name == linears[-1] else f"{name}.units"
                axes[f"{name}.weight"] = (group_out, group_in)
                if layer.bias is not None:
                    axes[f"{name}.bias"] = (group_out,)
                group_in = group_out
            elif not isinstance(layer, ELEMENTWISE):
                raise ValueError(
                    f"layer {name!r} ({type(layer).__name__}) is not known to let units be reordered; known are "
                    f"Linear and {', '.join(kind.__name__ for kind in ELEMENTWISE)}. Write the spec by hand."
                )
        spec = cls(axes)
        spec.verify(module, input_shape)
        return spec

    @classmethod
    def none(cls, layout: ParameterLayout) -> PermutationSpec:
        """Nothing can be reordered."""
        return cls({name: (None,) * len(shape) for name, shape in zip(layout.names, layout.shapes, strict=True)})

    def blocks(self, layout: ParameterLayout) -> dict[str, tuple[tuple[AxisBlock, ...], ...]]:
        """Every axis of every tensor as blocks."""
        self.group_sizes(layout)
        return {
            name: tuple((AxisBlock(g, n),) for g, n in zip(self.axes[name], shape, strict=True))
            for name, shape in zip(layout.names, layout.shapes, strict=True)
        }

    def group_sizes(self, layout: ParameterLayout) -> dict[str, int]:
        """Number of units of each group; the spec must fit the layout."""
        if set(self.axes) != set(layout.names):
            raise ValueError(f"the spec names {sorted(self.axes)}, the layout {sorted(layout.names)}")
        sizes: dict[str, int] = {}
        for name, shape in zip(layout.names, layout.shapes, strict=True):
            if len(self.axes[name]) != len(shape):
                raise ValueError(f"{name!r} of shape {shape} needs {len(shape)} axis groups, got {self.axes[name]}")
            for group, size in zip(self.axes[name], shape, strict=True):
                if group is not None and sizes.setdefault(group, size) != size:
                    raise ValueError(f"group {group!r} has {sizes[group]} units elsewhere, but {size} in {name!r}")
        return sizes

    def draw(self, layout: ParameterLayout, num: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw `num` uniformly random permutations of every group: `{group: (num, units)}`."""
        return {
            group: torch.rand(num, size, generator=generator).argsort(dim=1)
            for group, size in self.group_sizes(layout).items()
        }

    def index(self, layout: ParameterLayout, permutations: Mapping[str, Tensor]) -> Tensor:
        """Where each entry of the permuted vector comes from: (B, P), to be used with `gather`."""
        positions = torch.arange(layout.num_params)
        parts = []
        for name, source in layout.unflatten(positions).items():
            index = source[None]  # (1, *shape)
            for axis, group in enumerate(self.axes[name], start=1):
                if group is None:
                    continue
                perm = permutations[group]  # (B, units)
                view = [len(perm)] + [-1 if a == axis else 1 for a in range(1, index.dim())]
                shape = [len(perm), *index.shape[1:]]
                index = index.expand(shape).gather(axis, perm.view(view).expand(shape))
            parts.append(index.flatten(1))
        num = max(len(part) for part in parts)
        return torch.cat([part.expand(num, -1) for part in parts], dim=1)

    def permute(self, params: Tensor, layout: ParameterLayout, permutations: Mapping[str, Tensor]) -> Tensor:
        """Reorder the units of each network: (B, P) to (B, P), computing the same functions.

        Permutations of shape (1, units) serve all networks.
        """
        index = self.index(layout, permutations).to(params.device)
        return params.gather(1, index.expand(len(params), -1))

    def verify(self, module: nn.Module, input_shape: tuple[int, ...], *, num_inputs: int = 8) -> None:
        """Check in float64 that a random reordering leaves the module's outputs as they were.

        Raises:
            ValueError: outputs differ by more than 1e-10 of their scale.
        """
        generator = torch.Generator().manual_seed(0)
        network = copy.deepcopy(module).double().eval()
        layout = ParameterLayout.from_module(network)
        inputs = torch.randn(num_inputs, *input_shape, generator=generator, dtype=torch.float64)
        params = torch.randn(1, layout.num_params, generator=generator, dtype=torch.float64)
        permuted = self.permute(params, layout, self.draw(layout, 1, generator))
        with torch.no_grad():
            before, after = (
                torch.func.functional_call(network, layout.unflatten(p[0]), (inputs,)) for p in (params, permuted)
            )
        gap = ((before - after).abs().max() / before.abs().max().clamp(min=1.0)).item()
        if not gap <= TOLERANCE:
            raise ValueError(f"permuting units by this spec changes the outputs by {gap:.2e} (allowed: {TOLERANCE})")

    def to_json(self) -> dict[str, list[str | None]]:
        """Plain dict of lists, as kept beside models."""
        return {name: list(axes) for name, axes in self.axes.items()}

    @classmethod
    def from_json(cls, entries: Mapping[str, list[str | None]]) -> PermutationSpec:
        """Inverse of `to_json`."""
        return cls({name: tuple(axes) for name, axes in entries.items()})
