"""Training by gradients of the loss: an optimizer, its learning rate, and how the rate rises and falls.

Importing this file imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from g_pt.files.config import check_at_least
from g_pt.update_rules.base import Optimizer
from g_pt.update_rules.first_order import SGD, Adam, AdamW, Momentum, Nesterov, RMSprop, each_network

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from g_pt.tasks.base import Task
    from g_pt.update_rules.base import Problem, Tensors

Schedule = Literal["cosine", "linear", "constant"]
BatchScaling = Literal["linear", "square-root"]
USUAL_BATCH_SIZE = 64


class GradientState(NamedTuple):
    """State of the optimizer, the base learning rate of all networks or (B,), and what is known of the curvature."""

    optimizer: Any
    rate: float | Tensor
    curvature: Any = None


@dataclass(frozen=True)
class GradientRule:
    """An optimizer on mini-batches that all networks share; NaN and infinity of a diverging network are passed on."""

    optimizer: Optimizer[Any]
    """Turns gradients into a step."""
    learning_rate: float | tuple[float, ...] = 0.1
    """Base learning rate of all networks, or one for each of them."""
    learning_rate_range: tuple[float, float] | None = None
    """Draw the base learning rate of each network between these two, log-uniformly, in place of learning_rate."""
    schedule: Schedule = "cosine"
    """How the learning rate falls from its base value to 0 at the last step, or whether it is constant."""
    warm_up_steps: int | None = None
    """Steps in which the learning rate first rises to its base value, evenly; it falls after them."""
    batch_scaling: BatchScaling | None = None
    """Multiply the learning rate by the batch size over that of scaled_from, or by the root of it."""
    scaled_from: int | None = None
    """Batch size that the learning rate is meant for, with batch_scaling; 64 where it is not given."""
    title: ClassVar[str | None] = None
    tuned: ClassVar[Mapping[str, tuple[float, float]]] = {}  # settings worth tuning, and the range of each

    def __post_init__(self) -> None:
        rates = self.learning_rate if isinstance(self.learning_rate, tuple) else (self.learning_rate,)
        if not rates or not all(rate >= 0 for rate in rates):
            raise ValueError(f"learning_rate must not be negative, got {self.learning_rate}")
        if self.learning_rate_range is not None:
            low, high = self.learning_rate_range
            if not 0 < low <= high < math.inf:
                raise ValueError(
                    "learning_rate_range must be two positive numbers, the smaller first, "
                    f"got {self.learning_rate_range}"
                )
        check_at_least(self, warm_up_steps=1, scaled_from=1)

    @property
    def name(self) -> str:
        """The title, or that of the optimizer's class."""
        return self.title or type(self.optimizer).__name__

    def draw(self, num_networks: int, generator: torch.Generator) -> tuple[GradientRule, list[dict[str, Any]]]:
        """See `DrawnRule`: base learning rates (B,), recorded as `learning_rate`."""
        import torch

        rates = self.learning_rate
        if self.learning_rate_range is not None:
            low, high = self.learning_rate_range
            fractions = torch.rand(num_networks, generator=generator, dtype=torch.float64).tolist()
            rates = tuple(low * (high / low) ** fraction for fraction in fractions)  # log-uniform
        each = rates if isinstance(rates, tuple) else (rates,) * num_networks
        if len(each) != num_networks:
            raise ValueError(f"learning_rate must be one number or one for each of {num_networks} networks, got {each}")
        # one rate for all is a float: a rate per network costs time at every step
        settled = each[0] if len(set(each)) == 1 else each
        rule = replace(self, learning_rate=settled, learning_rate_range=None)
        return rule, [{"learning_rate": rate} for rate in each]

    def init(self, params: Tensors, task: Task) -> GradientState:
        """See `UpdateRule`."""
        trained = {name: params[name] for name in trained_names(task)}
        rate = each_network(self.learning_rate, next(iter(trained.values())))
        return GradientState(self.optimizer.init(trained), rate, self.unknown_curvature(trained, task))

    def step(self, params: Tensors, state: GradientState, problem: Problem) -> tuple[Tensors, GradientState]:
        """See `UpdateRule`."""
        losses, grads = problem.gradients(params)
        grads, curvature = self.preconditioned(params, grads, state.curvature, problem)
        trained = {name: params[name] for name in grads}  # the others are buffers
        rate = state.rate * self.factor(problem.step, problem.num_steps)
        if self.batch_scaling is not None:
            rate = rate * self.batch_factor(problem.batch_size)
        moved, optimizer = self.optimizer.update(trained, grads, losses, state.optimizer, rate)
        return {**params, **moved}, GradientState(optimizer, state.rate, curvature)

    def unknown_curvature(self, trained: Tensors, task: Task) -> Any:
        """What `preconditioned` knows before the first step; nothing here."""

    def preconditioned(self, params: Tensors, grads: Tensors, curvature: Any, problem: Problem) -> tuple[Tensors, Any]:
        """Directions that the optimizer takes for gradients, and the curvature after this step: as they are here."""
        return grads, curvature

    def factor(self, step: int, num_steps: int | None) -> float:
        """Learning rate at a step over its base value.

        Raises:
            ValueError: the rate is to fall, but the number of steps is not known.
        """
        if num_steps is None and self.schedule != "constant":
            raise ValueError(f"schedule {self.schedule!r} must know its last step: give the steps, or take 'constant'")
        rising = self.warm_up_steps or 0
        if step < rising:
            return (step + 1) / rising
        if num_steps is None or self.schedule == "constant":
            return 1.0
        share = (step - rising) / (num_steps - rising)
        return cosine_decay(share) if self.schedule == "cosine" else 1 - share

    def batch_factor(self, batch_size: int) -> float:
        """Learning rate of a batch size over that of `scaled_from`; the linear rule is that of Goyal et al. 2017."""
        ratio = batch_size / (self.scaled_from or USUAL_BATCH_SIZE)
        return ratio if self.batch_scaling == "linear" else math.sqrt(ratio)


def cosine_decay(share: float, floor: float = 0.0) -> float:
    """Factor of a learning rate after a share of the steps: from 1 along half a cosine to the floor."""
    return floor + (1 - floor) * (0.5 * (1 + math.cos(math.pi * share)))


def trained_names(task: Task) -> tuple[str, ...]:
    """Names of the tensors that gradients move.

    Raises:
        ValueError: the task has no training loss.
    """
    from g_pt.tasks.base import TrainableTask

    if not isinstance(task, TrainableTask):
        raise ValueError(f"task {task.name!r} has no training loss: a rule that asks for gradients cannot train it")
    return task.trained_names


@dataclass(frozen=True)
class SGDRule(GradientRule):
    """Stochastic gradient descent."""

    optimizer: SGD = field(default_factory=SGD)
    tuned: ClassVar = {"learning_rate": (1e-2, 10.0)}


@dataclass(frozen=True)
class MomentumRule(GradientRule):
    """Stochastic gradient descent with momentum."""

    optimizer: Momentum = field(default_factory=Momentum)
    tuned: ClassVar = {"learning_rate": (1e-3, 10.0)}


@dataclass(frozen=True)
class NesterovRule(GradientRule):
    """Stochastic gradient descent with Nesterov's momentum and weight decay, as harvests use it."""

    optimizer: Nesterov = field(default_factory=lambda: Nesterov(weight_decay=5e-4))
    tuned: ClassVar = {"learning_rate": (1e-3, 10.0)}


@dataclass(frozen=True)
class AdamRule(GradientRule):
    """Adam."""

    optimizer: Adam = field(default_factory=Adam)
    learning_rate: float | tuple[float, ...] = 1e-3
    tuned: ClassVar = {"learning_rate": (1e-4, 1.0)}


@dataclass(frozen=True)
class AdamWRule(GradientRule):
    """Adam with decoupled weight decay."""

    optimizer: AdamW = field(default_factory=AdamW)
    learning_rate: float | tuple[float, ...] = 1e-3
    tuned: ClassVar = {"learning_rate": (1e-4, 1.0)}


@dataclass(frozen=True)
class RMSpropRule(GradientRule):
    """RMSprop."""

    optimizer: RMSprop = field(default_factory=RMSprop)
    learning_rate: float | tuple[float, ...] = 1e-3
    tuned: ClassVar = {"learning_rate": (1e-4, 1.0)}
