"""Computing in one floating-point precision, whatever the code asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

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
