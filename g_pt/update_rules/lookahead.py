"""Lookahead: k steps of any rule forward, one step back (Zhang et al. 2019).

B = networks. Importing this file imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

from g_pt.files.config import check_at_least
from g_pt.update_rules.base import DrawnRule
from g_pt.update_rules.first_order import each_network, per_network
from g_pt.update_rules.gradient import AdamRule
from g_pt.update_rules.registry import CHOSEN_RULE

if TYPE_CHECKING:
    import torch

    from g_pt.tasks.base import Task
    from g_pt.update_rules.base import Problem, Tensors


@dataclass(frozen=True)
class WrappedRule:
    """A rule around another one, which may be of any kind."""

    inner: Annotated[Any, CHOSEN_RULE] = field(default_factory=AdamRule)
    """Rule that takes the steps, an `UpdateRule` by name."""

    def draw(self, num_networks: int, generator: torch.Generator) -> tuple[Self, list[dict[str, Any]]]:
        """See `DrawnRule`: what the inner rule draws."""
        if not isinstance(self.inner, DrawnRule):
            return self, [{} for _ in range(num_networks)]
        inner, drawn = self.inner.draw(num_networks, generator)
        return replace(self, inner=inner), drawn


class LookaheadState(NamedTuple):
    """Steps taken, the slow networks, and the state of the inner rule."""

    num_steps: int
    slow: Tensors
    inner: Any


@dataclass(frozen=True)
class Lookahead(WrappedRule):
    """Lookahead: after every k steps slow <- slow + alpha (fast - slow), from where the inner rule goes on.

    Between these steps the networks are the fast ones. Buffers, such as running statistics, are those of the fast.
    """

    alpha: float | tuple[float, ...] = 0.5
    """Share of the way that the slow networks go, for all of them or for each."""
    every: int = 5
    """Steps k of the inner rule to one of the slow networks."""
    reset: bool = False
    """Let the inner rule begin anew after each of these, as without momentum."""

    def __post_init__(self) -> None:
        if not all(0 <= a <= 1 for a in (self.alpha if isinstance(self.alpha, tuple) else (self.alpha,))):
            raise ValueError(f"alpha must lie between 0 and 1, got {self.alpha}")
        check_at_least(self, every=1)

    @property
    def name(self) -> str:
        """In tables and figures."""
        return f"Lookahead {self.inner.name}"

    def init(self, params: Tensors, task: Task) -> LookaheadState:
        """See `UpdateRule`."""
        slow = {name: params[name].clone() for name in moving_names(task)}
        return LookaheadState(0, slow, self.inner.init(params, task))

    def step(self, params: Tensors, state: LookaheadState, problem: Problem) -> tuple[Tensors, LookaheadState]:
        """See `UpdateRule`."""
        num_steps, slow, inner = state
        params, inner = self.inner.step(params, inner, problem)
        if (num_steps + 1) % self.every == 0:
            for name, tensor in slow.items():
                alpha = per_network(each_network(self.alpha, tensor), tensor)
                params[name] = params[name].lerp(tensor, 1 - alpha)  # alpha 1 is the inner rule, to the bit
                slow[name] = params[name].clone()
            inner = self.inner.init(params, problem.task) if self.reset else inner
        return params, LookaheadState(num_steps + 1, slow, inner)


def moving_names(task: Task) -> tuple[str, ...]:
    """Names of the tensors that a rule moves: those that are trained, where the task trains any."""
    from g_pt.tasks.base import TrainableTask

    return task.trained_names if isinstance(task, TrainableTask) else task.layout.names
