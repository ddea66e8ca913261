"""The moving average of the weights, which is what is evaluated, saved and sampled.

Where the model is sharded, each process averages its own shards: the average of a shard needs no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


class AveragedWeights:
    """An exponential moving average of a model's parameters, with a state that can be saved and restored."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with the present weights; the model is where it will stay, and sharded already if it will be."""
        self.model = model
        self.ema = EMAModel(local_weights(model), decay=decay, foreach=True)

    def step(self) -> None:
        """Take in the present weights."""
        self.ema.step(local_weights(self.model))

    def state_dict(self) -> dict[str, Any]:
        """Averages of this process, on their device."""
        return {"steps": self.ema.optimization_step, "weights": self.ema.shadow_params}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave for the same model on as many processes."""
        self.ema.optimization_step = state["steps"]
        self.set_weights(state["weights"])

    @torch.no_grad()
    def set_weights(self, weights: list[Tensor]) -> None:
        """Put other weights in place of the averages."""
        for own, other in zip(self.ema.shadow_params, weights, strict=True):
            own.copy_(other)

    def copy_to_model(self) -> None:
        """Overwrite the weights of the model by their averages."""
        self.ema.copy_to(local_weights(self.model))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Evaluate the model with the averaged weights, then put the trained ones back."""
        self.ema.store(local_weights(self.model))
        self.copy_to_model()
        self.model.eval()
        try:
            yield
        finally:
            self.ema.restore(local_weights(self.model))
            self.model.train()


def local_weights(model: nn.Module) -> list[Tensor]:
    """The parameters, or the shards of them that this process has; changing these in place changes the model."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # after a forward without a backward it still has whole weights, soon out of date
    return [
        p.to_local().detach().requires_grad_(p.requires_grad) if isinstance(p, DTensor) else p
        for p in model.parameters()
    ]
