"""Ways to change networks step by step: a G.pt and the optimizers it is compared with, behind one interface.

B = networks, P = parameters per network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.runtime.seeds import seeded_global_generator
from g_pt.tasks.base import TrainableTask
from g_pt.update_rules.first_order import make_optimizer, writable
from g_pt.update_rules.mini_batches import mini_batches


@runtime_checkable
class UpdateRule(Protocol):
    """Changes networks that it is given, one step after the other."""

    @property
    def name(self) -> str:
        """In tables and figures."""
        ...

    @property
    def gradients_per_step(self) -> int:
        """Gradients of a training loss that a step takes, per network."""
        ...

    def updates(self, starting_params: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """The networks after each step, without end: starts (B, P), raw, stay as they are; every item is a new (B, P).

        The same starts and the same state of the generator give the same updates.
        """
        ...


@dataclass(frozen=True)
class PromptRule:
    """A G.pt: a step is one sampled update, whose result is the next start.

    Attributes:
        pipeline: of the model.
        prompt: raw, the same at every step.
        num_inference_steps: sampling steps; the pipeline's default where None.
    """

    pipeline: ParameterUpdatePipeline
    prompt: float
    num_inference_steps: int | None = None
    name: str = "G.pt"
    gradients_per_step: int = 0

    def updates(self, starting_params: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """See `UpdateRule`."""
        params = starting_params
        while True:
            params = self.pipeline(
                params, self.prompt, num_inference_steps=self.num_inference_steps, generator=generator
            ).params
            yield params


@dataclass(frozen=True)
class GradientRule:
    """An optimizer of `first_order` on mini-batches that all networks share, at a constant learning rate.

    Attributes:
        task: what the networks are and learn.
        name: of the rule.
        optimizer: a name of `OPTIMIZERS`.
        learning_rate: for all networks, or one for each (B,).
        momentum: where the optimizer has one.
        weight_decay: as the optimizer means it.
        batch_size: examples per step.
    """

    task: TrainableTask
    name: str
    optimizer: str
    learning_rate: float | Tensor
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 64
    gradients_per_step: int = 1

    def updates(self, starting_params: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """See `UpdateRule`; NaN and infinity of a diverging network are passed on."""
        task = self.task
        tensors = {name: t.clone() for name, t in task.layout.unflatten(starting_params.detach()).items()}
        trained = [tensors[name].requires_grad_() for name in task.trained_names]  # the others are buffers
        optimizers = [
            make_optimizer(self.optimizer, momentum=self.momentum, weight_decay=self.weight_decay) for _ in trained
        ]
        for examples in mini_batches(task.num_examples, min(self.batch_size, task.num_examples), generator):
            seed = int(torch.randint(2**63 - 1, (), generator=generator))
            with torch.enable_grad(), seeded_global_generator(seed):  # dropout draws from it
                losses = task.training_losses(tensors, examples, generator)
                grads = torch.autograd.grad(losses.sum(), trained, allow_unused=True)  # no parameter is shared
            for optimizer, tensor, grad in zip(optimizers, trained, writable(grads, task), strict=True):
                optimizer.step(tensor, grad, self.learning_rate)
            yield task.layout.flatten({name: tensor.detach() for name, tensor in tensors.items()})
