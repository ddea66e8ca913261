"""Around one optimizer step: the compiled model, and the norms for the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def compiled(model: nn.Module) -> nn.Module:
    """The model, compiled where training calls it; weights and their names stay those of the model itself.

    Alignment calls it with and without gradients and in batches of other sizes, and each is compiled once.
    """
    function: Callable[..., Any] = torch.compile(model)
    return function  # type: ignore[return-value]


@contextmanager
def update_norm(model: nn.Module, *, enabled: bool) -> Iterator[dict[str, float]]:
    """Measure how far the weights move in the block: `{"update_norm": L2 norm}` afterwards, or nothing."""
    measured: dict[str, float] = {}
    if not enabled:
        yield measured
        return
    parameters = list(model.parameters())
    before = [p.detach().clone() for p in parameters]
    yield measured
    moved = torch._foreach_sub([p.detach() for p in parameters], before)
    measured["update_norm"] = whole(torch.nn.utils.get_total_norm(moved))


def whole(value: Tensor | float) -> float:
    """A number, summed over the shards where it is that of a sharded model; all processes call this."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return float(value)
