"""Building blocks of the checks: refusals, and networks to look at.

B = networks, P = parameters per network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from g_pt.runtime.float_dtype import OneFloatDtype, to_float_dtype
from g_pt.tasks.base import Task, TrainableTask
from g_pt.tasks.templates import plain_module

NUM_NETWORKS = 3
TOLERANCE = 1e-4  # of float32, relative to the largest value


def require(condition: bool, message: str) -> None:
    """Raise AssertionError with the message where the condition does not hold."""
    if not condition:
        raise AssertionError(message)


def require_equal(got: Tensor, wanted: Tensor, what: str) -> None:
    """Refuse differences above float32's noise; NaN differs from everything."""
    require(got.shape == wanted.shape, f"{what}: must have shape {tuple(wanted.shape)}, got {tuple(got.shape)}")
    if wanted.numel():
        scale = wanted.abs().max().clamp(min=1e-2)
        gap = ((got - wanted).abs().max() / scale).item()
        require(gap <= TOLERANCE, f"{what}: differs by {gap:.1e} of the largest value, allowed is {TOLERANCE:g}")


@contextmanager
def global_generator_kept(what: str) -> Iterator[None]:
    """Refuse that PyTorch's global generator moves."""
    before = torch.get_rng_state()
    yield
    kept = torch.equal(torch.get_rng_state(), before)
    require(kept, f"{what} must not draw from the global generator; see g_pt.runtime.seeds.seeded_global_generator")


def networks(task: Task, num: int = NUM_NETWORKS, seed: int = 0) -> Tensor:
    """Parameters (B, P) away from the initialisation, where zeros and ones hide mistakes; statistics stay valid."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {n: t.clone() for n, t in task.layout.unflatten(task.init(num, generator)).items()}
    moved = task.trained_names if isinstance(task, TrainableTask) else task.layout.names
    for name in moved:
        tensors[name] += 0.1 * torch.randn(tensors[name].shape, generator=generator)
    return task.recalibrate(task.layout.flatten(tensors))


def load(task: Task, row: Tensor) -> nn.Module:
    """`network()` with the parameters (P,) of a row, in their precision."""
    module = to_float_dtype(plain_module(task.network()), row.dtype)
    tensors = dict(module.state_dict(keep_vars=True))
    task.layout.check(tensors)
    with torch.no_grad():
        for name, tensor in task.layout.unflatten(row).items():
            tensors[name].copy_(tensor)
    return module


def run(module: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs (N, ...) of a module, whose own casts are those to the precision of its parameters."""
    with OneFloatDtype(next(module.parameters()).dtype):
        return module(inputs)
