"""Computing in one floating-point precision, whatever the code asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

CASTS = frozenset((Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16))


class OneFloatDtype(TorchFunctionMode):
    """Inside it, casts such as `x.float()` and `x.to(torch.bfloat16)` give one floating-point dtype.

    So do functions that make tensors of a dtype. A forward pass that casts then runs in the precision of the network's
    tensors. Integers and dtypes that nobody asks for stay.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace the dtypes among the arguments."""
        if func in CASTS:
            return args[0].to(self.dtype)
        named = {name: self._replaced(value) for name, value in (kwargs or {}).items()}
        return func(*map(self._replaced, args), **named)

    def _replaced(self, value: Any) -> Any:
        return self.dtype if isinstance(value, torch.dtype) and value.is_floating_point else value


def to_float_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast a module in place: parameters, buffers, and the tensors that are plain attributes, or in lists and dicts."""

    def cast(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, (Tensor, list, tuple, dict)) and not name.startswith("_"):
                vars(part)[name] = tree_map(cast, value)
    return module.to(dtype)
