"""Which axes of a network's tensors can be reordered together without changing its function.

P = parameters per network, B = networks in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations.blocks import Axis, AxisBlock, Blocks, reorder
from g_pt.permutations.checks import Inputs, check_function_is_kept
from g_pt.permutations.heads import free_head_entries


@dataclass(frozen=True)
class PermutationSpec:
    """For each tensor and each of its axes, which entries move together.

    An axis is None where the order is fixed, the name of a group where the axis is the group's units, or a
    tuple of `AxisBlock` laid out one after the other. In
    `{"fc1.weight": ("hidden0", None), "fc1.bias": ("hidden0",), "fc2.weight": (None, "hidden0"), ...}` the
    rows of fc1 and the columns of fc2 are the same hidden units. A linear layer that reads 16 flattened maps
    of 5 x 5 has `(None, (AxisBlock("conv.units", 16, 25),))`.
    """

    axes: Mapping[str, tuple[Axis, ...]]

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        input_shape: tuple[int, ...] | None = None,
        *,
        example_input: Any = None,
    ) -> PermutationSpec:
        """Derive the spec of a network by tracing it in eval mode, and verify it.

        Inputs and outputs keep their order, and so do tensors that the forward pass does not use. Groups are
        named after the layer that makes their units: `fc1.units`. Of up to four attention heads, the entries of
        each are groups of their own; of more, whole heads move.

        Args:
            module: any network that `torch.export` can trace.
            input_shape: shape of one float input, without the batch axis.
            example_input: instead of a shape, a whole input with its batch axis (two or more), such as
                integer tokens; a tuple, or a dict by keyword, for a network that takes several. Where `forward`
                has one argument, a list or dict is that argument.

        Raises:
            ValueError: the network has control flow that depends on data, or an operation whose effect on
                units is not known (the message names it), or the derived spec changes the function.
        """
        from g_pt.permutations.tracing import trace_axes  # it needs torch.export, which loads in a second

        inputs = _example_inputs(module, input_shape, example_input, num_inputs=2)
        spec = cls(trace_axes(module, inputs))
        blocks = spec.blocks(ParameterLayout.from_module(module))
        freed = free_head_entries(blocks, lambda axes: check_function_is_kept(axes, module, inputs))
        axes = {
            name: tuple(
                axis if old == new else new for axis, old, new in zip(tensor, blocks[name], freed[name], strict=True)
            )
            for name, tensor in spec.axes.items()
        }
        spec = cls(axes)
        spec.verify(module, input_shape, example_input=example_input)
        return spec

    @classmethod
    def none(cls, layout: ParameterLayout) -> PermutationSpec:
        """The spec in which every axis is fixed: right for any network, and of no use to augment it."""
        return cls({name: (None,) * len(shape) for name, shape in zip(layout.names, layout.shapes, strict=True)})

    def blocks(self, layout: ParameterLayout) -> dict[str, tuple[Blocks, ...]]:
        """Every axis of every tensor as blocks with all sizes filled in: `{name: (blocks per axis)}`.

        A fixed axis is one block `(None, size, 1)`, the axis of a group one block `(group, size, 1)`.

        Raises:
            ValueError: the spec does not fit the layout.
        """
        if set(self.axes) != set(layout.names):
            raise ValueError(f"the spec names {sorted(self.axes)}, the layout {sorted(layout.names)}")
        filled: dict[str, tuple[Blocks, ...]] = {}
        sizes: dict[str, int] = {}
        for name, shape in zip(layout.names, layout.shapes, strict=True):
            if len(self.axes[name]) != len(shape):
                raise ValueError(f"{name!r} of shape {shape} needs {len(shape)} axis groups, got {self.axes[name]}")
            filled[name] = tuple(
                axis if isinstance(axis, tuple) else (AxisBlock(axis, size),)
                for axis, size in zip(self.axes[name], shape, strict=True)
            )
            for number, (blocks, size) in enumerate(zip(filled[name], shape, strict=True)):
                got = sum(block.size for block in blocks)
                if got != size or any(block.units < 1 or block.inner < 1 for block in blocks):
                    raise ValueError(
                        f"axis {number} of {name!r} has {size} entries, its blocks (group, units, inner) "
                        f"{[tuple(block) for block in blocks]} have {got}; units x inner must add up to the axis"
                    )
                for block in blocks:
                    if block.group is not None and sizes.setdefault(block.group, block.units) != block.units:
                        raise ValueError(
                            f"group {block.group!r} has {sizes[block.group]} units elsewhere, "
                            f"but {block.units} in {name!r}"
                        )
        return filled

    def group_sizes(self, layout: ParameterLayout) -> dict[str, int]:
        """Number of units of each group; the spec must fit the layout."""
        return {
            block.group: block.units
            for axes in self.blocks(layout).values()
            for blocks in axes
            for block in blocks
            if block.group is not None
        }

    def draw(self, layout: ParameterLayout, num: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw `num` uniformly random permutations of every group: `{group: (num, units)}`."""
        return {
            group: torch.rand(num, size, generator=generator).argsort(dim=1)
            for group, size in self.group_sizes(layout).items()
        }

    def index(self, layout: ParameterLayout, permutations: Mapping[str, Tensor]) -> Tensor:
        """Where each entry of the permuted vector comes from: (B, P), to be used with `gather`."""
        blocks = self.blocks(layout)
        parts = []
        for name, source in layout.unflatten(torch.arange(layout.num_params)).items():
            parts.append(reorder(source[None], blocks[name], permutations).flatten(1))
        num = max(len(part) for part in parts)
        return torch.cat([part.expand(num, -1) for part in parts], dim=1)

    def permute(self, params: Tensor, layout: ParameterLayout, permutations: Mapping[str, Tensor]) -> Tensor:
        """Reorder the units of each network: (B, P) to (B, P), computing the same functions.

        Permutations of shape (1, units) serve all networks.
        """
        index = self.index(layout, permutations).to(params.device)
        return params.gather(1, index.expand(len(params), -1))

    def verify(
        self,
        module: nn.Module,
        input_shape: tuple[int, ...] | None = None,
        *,
        example_input: Any = None,
        num_inputs: int = 8,
    ) -> None:
        """Check in float64 and eval mode that random reorderings leave the module's outputs as they were.

        A group that no output depends on passes the check for nothing: a warning names it.

        Args:
            module: the network; its own parameters only say which tensors must stay positive.
            input_shape: shape of one float input, without the batch axis.
            example_input: instead of a shape, a whole input, as in `from_module`.
            num_inputs: how many random inputs of `input_shape` are used.

        Raises:
            ValueError: outputs differ by more than 1e-10 of their scale.
        """
        blocks = self.blocks(ParameterLayout.from_module(module))
        check_function_is_kept(blocks, module, _example_inputs(module, input_shape, example_input, num_inputs))

    def to_json(self) -> dict[str, list[Any]]:
        """Plain dict of lists, as kept beside models: per axis null, a group or `[[group, units, inner], ...]`."""
        return {
            name: [[list(block) for block in axis] if isinstance(axis, tuple) else axis for axis in axes]
            for name, axes in self.axes.items()
        }

    @classmethod
    def from_json(cls, entries: Mapping[str, list[Any]]) -> PermutationSpec:
        """Inverse of `to_json`."""
        return cls(
            {
                name: tuple(
                    axis if axis is None or isinstance(axis, str) else tuple(AxisBlock(*block) for block in axis)
                    for axis in axes
                )
                for name, axes in entries.items()
            }
        )


def _example_inputs(
    module: nn.Module, input_shape: tuple[int, ...] | None, example_input: Any, num_inputs: int
) -> Inputs:
    if (input_shape is None) == (example_input is None):
        raise ValueError("pass either input_shape (one float input without its batch axis) or example_input")
    if input_shape is not None:
        generator = torch.Generator().manual_seed(0)
        return Inputs((torch.randn(num_inputs, *input_shape, generator=generator),))
    return Inputs.of(module, example_input)
