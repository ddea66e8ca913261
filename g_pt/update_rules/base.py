"""One protocol for everything that changes networks step by step: what a step may ask, and what it costs.

Importing this file imports no torch, so that settings of rules are known to `--help`.

B = networks, P = parameters per network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from g_pt.tasks.base import Task

    Tensors = dict[str, Tensor]  # {name: (B, *shape)}, raw

State = TypeVar("State")


@dataclass(frozen=True)
class Cost:
    """Cost of steps, for each network; costs are added up.

    Attributes:
        gradients: of a training loss, each on one mini-batch.
        losses: training losses without a gradient, each on one mini-batch.
        metrics: measurements of all metrics on the validation split.
        model_passes: forward passes of a model that predicts parameters.
        seconds: wall-clock time, divided by B.
        state_bytes: memory that the rule keeps between steps, divided by B; of a sum, the larger of the two.
        fallbacks: steps at which a rule could not do what it is for, such as inverting a curvature that is not finite,
            and took the way out that it documents; mean over the B networks.
    """

    gradients: int = 0
    losses: int = 0
    metrics: int = 0
    model_passes: int = 0
    seconds: float = 0.0
    state_bytes: float = 0.0
    fallbacks: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.gradients + other.gradients,
            self.losses + other.losses,
            self.metrics + other.metrics,
            self.model_passes + other.model_passes,
            self.seconds + other.seconds,
            max(self.state_bytes, other.state_bytes),
            self.fallbacks + other.fallbacks,
        )


class Problem(Protocol):
    """All that a step may ask of the task; whatever is asked is counted.

    Networks are given as `{name: (B, *shape)}`, raw, and stay as they are, but for the buffers that
    `TrainableTask.training_losses` updates in place when gradients are asked for.
    """

    task: Task
    step: int
    """Steps taken before this one."""
    num_steps: int | None
    """Steps of the whole run, at whose end schedules end; None where nobody said."""
    generator: torch.Generator
    """Of everything random in a step."""
    cost: Cost
    """Of all steps so far; a rule adds what the problem cannot see: `problem.cost += Cost(model_passes=20)`."""

    @property
    def batch_size(self) -> int:
        """Examples of a mini-batch."""
        ...

    def gradients(self, params: Tensors) -> tuple[Tensor, Tensors]:
        """Training losses (B,) on the step's mini-batch, and their gradients for `TrainableTask.trained_names`.

        The gradients belong to the caller, who may write into them. Asked again in a step, the mini-batch is the same.
        """
        ...

    def losses(self, params: Tensors, num_batches: int = 1) -> Tensor:
        """Mean training losses (B,) on other mini-batches than those of the steps, drawn anew at every call."""
        ...

    def metric(self, params: Tensors, name: str) -> Tensor:
        """A metric (B,), raw, on the validation split."""
        ...

    def layer_inputs(self, params: Tensors) -> Tensors:
        """Mean of a a^T over the step's mini-batch, a being the inputs of a layer: `{layer: (B, n, n)}`.

        See `g_pt.update_rules.layer_moments`. A layer that sees the same in all networks is expanded from one matrix.
        """
        ...

    def apart(self, name: str) -> Problem:
        """The same problem at this step and cost, whose mini-batches and whatever is drawn are its own, by a name.

        What is drawn there moves nothing here. Cost goes on there: take it back by `problem.cost = own.cost`.
        """
        ...

    def layer_gradients(self, params: Tensors) -> Tensors:
        """Mean of e e^T over the step's mini-batch, e being the gradient at a layer's outputs: `{layer: (B, m, m)}`."""
        ...


@runtime_checkable
class UpdateRule(Protocol[State]):
    """Changes networks, one step after the other. All that a step leaves to the next is in (params, state).

    `step` may write into the networks and the state that it is given, and may return the same tensors: whoever still
    needs the earlier ones copies them first, as `follow` does. Networks never meet: what becomes of one does not
    depend on the others beside it. A network with NaN or infinity is passed on as it is, or trained on.
    """

    @property
    def name(self) -> str:
        """In tables and figures."""
        ...

    def init(self, params: Tensors, task: Task) -> State:
        """State before the first step; `params` stay as they are.

        Raises:
            ValueError: the rule cannot change networks of this task.
        """
        ...

    def step(self, params: Tensors, state: State, problem: Problem) -> tuple[Tensors, State]:
        """One step: the networks after it, every tensor of the layout, and the state after it."""
        ...


@runtime_checkable
class DrawnRule(Protocol):
    """An update rule of whose settings each network may draw its own, such as a learning rate from a range."""

    def draw(self, num_networks: int, generator: torch.Generator) -> tuple[UpdateRule[Any], list[dict[str, Any]]]:
        """The rule with every setting drawn, and what is to be recorded about each of the B networks, as JSON.

        Nothing is drawn where nothing is left to draw.
        """
        ...


@runtime_checkable
class Optimizer(Protocol[State]):
    """Turns gradients into a step: whole trees of trained tensors, without knowing the task.

    `update` may write into `params`, `grads` and `state`, and may return the same tensors, so that training copies
    nothing; what it is given needs no gradient of its own. Every operation acts on each network by itself.
    """

    def init(self, params: Tensors) -> State:
        """State before the first step; `params` stay as they are."""
        ...

    def update(
        self, params: Tensors, grads: Tensors, losses: Tensor, state: State, rate: float | Tensor
    ) -> tuple[Tensors, State]:
        """One step.

        Args:
            params: `{name: (B, *shape)}`, the trained tensors.
            grads: of the same names and shapes, contiguous.
            losses: (B,) training losses that the gradients belong to.
            state: of the step before.
            rate: learning rate of all networks, or (B,), one for each.

        Returns:
            `params` and `state` after the step.
        """
        ...


@runtime_checkable
class LearnableOptimizer(Protocol):
    """Makes an optimizer of weights: one set (M,) for all networks, or one for each, (B, M), as evolution needs it.

    The state of the optimizer is a tree of tensors with an axis for the networks in front, so that some networks can
    begin anew beside others, and `update` writes into nothing that it is given, so that weights can have gradients.
    The learning rate multiplies the step: 1 is the optimizer as it was trained.
    """

    @property
    def num_weights(self) -> int:
        """M."""
        ...

    def init(self, generator: torch.Generator) -> Tensor:
        """Fresh weights (M,)."""
        ...

    def optimizer(self, weights: Tensor) -> Optimizer[Any]:
        """The optimizer that has these weights; raises ValueError where there are more or fewer of them."""
        ...
