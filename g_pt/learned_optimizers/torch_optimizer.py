"""A learned optimizer for an ordinary module in an ordinary training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from g_pt.evolution.unrolls import leaves, mapped
from g_pt.learned_optimizers.trained import load_trained
from g_pt.update_rules.base import Optimizer

Params = Iterable[Tensor] | Iterable[dict[str, Any]]


class LearnedOptimizer(torch.optim.Optimizer):
    """Steps of a learned optimizer: `LearnedOptimizer(module.parameters(), "star")`.

    It needs no learning rate; `lr` multiplies its steps. Tensors without a gradient stay as they are.
    """

    def __init__(self, params: Params, weights: str = "star", *, lr: float = 1.0) -> None:
        """Load the weights.

        Args:
            params: of the module, or groups of them.
            weights: bundled weights by name, or a file that train_learned_optimizer.py wrote.
            lr: 1 for the optimizer as it was trained.

        Raises:
            OSError: there are no such weights.
            ValueError: they are no learned optimizer, or lr is negative.
        """
        if not lr >= 0:
            raise ValueError(f"lr must not be negative, got {lr}")
        learned, values, _ = load_trained(weights)
        self.optimizer: Optimizer[Any] = learned.optimizer(values)
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; returns the loss of the closure, where one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            tensors = [tensor for tensor in group["params"] if tensor.requires_grad]
            if tensors:
                self._step(tensors, float(group["lr"]))
        return loss

    def _step(self, tensors: list[Tensor], rate: float) -> None:
        params = {str(i): tensor[None] for i, tensor in enumerate(tensors)}  # one network
        grads = {
            str(i): (torch.zeros_like(tensor) if tensor.grad is None else tensor.grad)[None]
            for i, tensor in enumerate(tensors)
        }
        state = self.optimizer.init(params)
        own = self.state[tensors[0]]  # a list, which is what the state dict of an optimizer can hold
        if own:
            known = iter(own["tensors"])
            state = mapped(lambda _: next(known), state)
        moved, state = self.optimizer.update(params, grads, tensors[0].new_zeros(1), state, rate)
        for i, tensor in enumerate(tensors):
            if tensor.grad is not None:
                tensor.copy_(moved[str(i)][0])
        own["tensors"] = leaves(state)
