"""The layout of a network's parameters inside one flat vector.

P = parameters per network, B = networks in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from g_pt.files.schema import Between, brief, one_line, read_value

MAX_PARAMS = 2**40
# as JSON has them: [[name, [size, ...]], ...]
TENSORS = Annotated[
    list[
        tuple[Annotated[str, Between(1, 1000)], Annotated[list[Annotated[int, Between(1, MAX_PARAMS)]], Between(0, 64)]]
    ],
    Between(1, 1_000_000),
]
MOST_NAMED = 16  # tensors in a message


@dataclass(frozen=True)
class ParameterLayout:
    """Names and shapes of a network's tensors, in the order in which the flat vector holds them.

    Tensors are flattened row-major and concatenated in state-dict order, as in the reference G.pt.
    Floating-point buffers are part of the layout, since a network does not compute without them; integer
    buffers (counters) are not. A tensor that a module holds under several names (tied weights) is part of the
    layout once, under its first name.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.shapes):
            raise ValueError(f"a layout needs one shape per name, got {len(self.names)} and {len(self.shapes)}")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"tensor names in a layout must differ, got {list(self.names)}")

    @classmethod
    def from_module(cls, module: nn.Module) -> ParameterLayout:
        """Read the layout off a module's state dict."""
        tensors: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name, tensor in module.state_dict(keep_vars=True).items():  # the tensors themselves, not copies
            if tensor.is_floating_point() and id(tensor) not in seen:
                seen.add(id(tensor))
                tensors[name] = tensor
        if not tensors:
            raise ValueError(f"{type(module).__name__} has no floating-point parameters to lay out")
        return cls(tuple(tensors), tuple(tuple(t.shape) for t in tensors.values()))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of parameters of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def num_params(self) -> int:
        """P, the length of the flat vector."""
        return sum(self.sizes)

    @property
    def slices(self) -> dict[str, slice]:
        """Where each tensor lies in the flat vector."""
        slices, start = {}, 0
        for name, size in zip(self.names, self.sizes, strict=True):
            slices[name] = slice(start, start + size)
            start += size
        return slices

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Join named tensors of shape (..., *shape) into vectors (..., P); leading axes are kept.

        Raises:
            ValueError: a tensor is missing, not part of the layout, or of another shape.
        """
        self.check(tensors, batched=True)
        parts = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            tensor = tensors[name]
            lead = tensor.shape[: tensor.dim() - len(shape)]
            parts.append(tensor.reshape(*lead, math.prod(shape)))
        return torch.cat(parts, dim=-1)

    def unflatten(self, params: Tensor) -> dict[str, Tensor]:
        """Split vectors (..., P) into named tensors (..., *shape) without copying where strides allow it."""
        if params.shape[-1] != self.num_params:
            raise ValueError(
                f"a vector of this layout has {self.num_params} parameters, got {params.shape[-1]}; "
                f"its tensors are {self.describe()}"
            )
        # split, not slices: its backward is one concatenation instead of one zero-filled vector per tensor
        parts = params.split(self.sizes, dim=-1)
        return {
            name: part.reshape((*params.shape[:-1], *shape))
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def check(self, tensors: Mapping[str, Tensor], *, batched: bool = False) -> None:
        """Refuse tensors that do not fit; the error names the tensor, the shape wanted and what came.

        Integer tensors are ignored, and so is a tensor that shares the memory of one in the layout (tied weights
        under their other names). With `batched`, leading axes in front of the shape are allowed.
        """
        floating = {name: t for name, t in tensors.items() if t.is_floating_point()}
        for name, shape in zip(self.names, self.shapes, strict=True):
            if name not in floating:
                raise ValueError(
                    f"tensor {name!r} of shape {shape} is wanted but missing; got [{listed(sorted(floating))}]"
                )
            got = tuple(floating[name].shape)
            end = got[len(got) - len(shape) :] if batched and len(got) > len(shape) else got
            if end != shape:
                raise ValueError(f"tensor {name!r} must have shape {shape}, got {brief(got)}: another architecture?")
        extra = sorted(set(floating) - set(self.names))
        if extra:
            known = {floating[name].data_ptr() for name in self.names}
            extra = [name for name in extra if floating[name].data_ptr() not in known]
        if extra:
            raise ValueError(
                f"tensors [{listed(extra)}] are not part of this network; its tensors are {self.describe()}"
            )

    def describe(self, most: int | None = MOST_NAMED) -> str:
        """One line for error messages: `fc1.weight (16, 64), fc1.bias (16,), ...`; all tensors where `most` is None."""
        pairs = zip(self.names[:most], self.shapes[:most], strict=True)
        shown = ", ".join(f"{one_line(name, 80)} {brief(shape)}" for name, shape in pairs)
        return shown if most is None or len(self.names) <= most else f"{shown} and {len(self.names) - most:,} more"

    def to_json(self) -> list[list[Any]]:
        """Plain lists `[[name, [size, ...]], ...]`, as kept beside data and models."""
        return [[name, list(shape)] for name, shape in zip(self.names, self.shapes, strict=True)]

    @classmethod
    def from_json(cls, entries: Any) -> ParameterLayout:
        """Inverse of `to_json`.

        Raises:
            ValueError: a name is no string, a size no whole number from 1, or there are too many.
        """
        tensors = read_value(TENSORS, entries, "tensors")
        layout = cls(tuple(name for name, _ in tensors), tuple(tuple(shape) for _, shape in tensors))
        if layout.num_params > MAX_PARAMS:
            raise ValueError(f"a network must have at most {MAX_PARAMS} parameters, got {brief(layout.num_params)}")
        return layout


def listed(names: list[str]) -> str:
    """Names for a message, the first of many."""
    shown = ", ".join(brief(name, 80) for name in names[:MOST_NAMED])
    return shown if len(names) <= MOST_NAMED else f"{shown} and {len(names) - MOST_NAMED:,} more"
