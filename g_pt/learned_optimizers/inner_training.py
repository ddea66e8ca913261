"""The training of networks by a learned optimizer, as a process to unroll.

B = networks, M = weights, T = horizon, K = steps of a window.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from g_pt.tasks.base import TrainableTask
from g_pt.tasks.supervised import SupervisedTask
from g_pt.update_rules.base import LearnableOptimizer
from g_pt.update_rules.gradient import GradientRule, trained_names
from g_pt.update_rules.mini_batches import mini_batches
from g_pt.update_rules.problem import TaskProblem, follow, spawned


class Networks(NamedTuple):
    """All tensors of B networks, and the state of their optimizer."""

    params: dict[str, Tensor]
    optimizer: Any


class InnerTraining:
    """See `g_pt.evolution.unrolls.Unroll`. Losses are measured after each step, where possible on validation examples.

    On training examples, optimizers are learned that fit them and nothing else. Gradients of the networks are not
    differentiated.
    """

    def __init__(self, learned: LearnableOptimizer, task: TrainableTask, *, horizon: int, batch_size: int = 64) -> None:
        """Raises ValueError where the task has no gradients."""
        self.names = trained_names(task)
        self.learned, self.task, self.horizon, self.batch_size = learned, task, horizon, batch_size

    def begin(self, num: int, generator: torch.Generator) -> Networks:
        """See `Unroll`."""
        layout = self.task.layout
        params = {name: t.clone() for name, t in layout.unflatten(self.task.init(num, generator)).items()}
        some = self.learned.optimizer(self.learned.init(torch.Generator().manual_seed(0)))
        return Networks(params, some.init({name: params[name] for name in self.names}))

    def run(self, weights: Tensor, state: Networks, num_steps: int, generator: torch.Generator) -> tuple[Tensor, Any]:
        """See `Unroll`; every window has mini-batches in an order of its own."""
        optimizer = self.learned.optimizer(weights)
        problem = TaskProblem(self.task, spawned(generator), batch_size=self.batch_size)
        measured = self.measured_batches(generator)
        params, inner, losses = state.params, state.optimizer, []
        for problem.step in range(num_steps):
            found, grads = problem.gradients(params)
            trained = {name: params[name] for name in self.names}
            moved, inner = optimizer.update(trained, grads, found, inner, 1.0)
            params = {**params, **moved}
            losses.append(self.losses(params, next(measured)))
        return torch.stack(losses), Networks(params, inner)

    def measured_batches(self, generator: torch.Generator) -> Any:
        """Examples that losses are measured on: of the validation split, where there is one."""
        supervised = isinstance(self.task, SupervisedTask)
        num = len(self.task.examples("validation")) if supervised else self.task.num_examples  # type: ignore[attr-defined]
        return mini_batches(num, min(self.batch_size, num), generator)

    def losses(self, params: dict[str, Tensor], examples: Tensor) -> Tensor:
        """Losses (B,) on such examples, differentiable."""
        if not isinstance(self.task, SupervisedTask):
            return self.task.training_losses(params, examples)
        data = self.task.examples("validation")
        return self.task.losses(self.task.forward(params, data.inputs[examples]), data.labels[examples])

    def evaluate(
        self, weights: Tensor, num: int, generator: torch.Generator, split: Any = "validation"
    ) -> dict[str, Tensor]:
        """Metrics (B,) on a split, of fresh networks after all steps by one set of weights (M,)."""
        each = weights.repeat(num, 1)  # as in `run`, so that what is compiled serves
        rule = GradientRule(self.learned.optimizer(each), 1.0, schedule="constant")
        with torch.no_grad():
            starts = self.task.init(num, generator)
            ((ends, _),) = follow(rule, self.task, starts, generator, batch_size=self.batch_size, steps=[self.horizon])
        return self.task.evaluate(ends, split)
