"""A guard for rules that may fail: of a rule and a fall-back, the one with the lower loss goes on (LGL2O).

After Premont-Schwarz, Vitku and Feyereisl 2022 ("A Simple Guard for Learned Optimizers"): in blocks of n_t steps both
start from the same networks, and losses on n_c mini-batches of the guard's own decide. On a strongly convex problem
whose loss is known exactly, no block ends above where the fall-back alone would be.

B = networks, K = candidates of a network. Importing this file imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

from g_pt.files.config import check_at_least
from g_pt.update_rules.base import Cost, DrawnRule
from g_pt.update_rules.gradient import SGDRule
from g_pt.update_rules.lookahead import WrappedRule
from g_pt.update_rules.registry import CHOSEN_RULE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from g_pt.tasks.base import Task
    from g_pt.update_rules.base import Problem, Tensors


class GuardState(NamedTuple):
    """Networks that the guarded rule has in this block, and the states of rule and fall-back, which always go on."""

    tried: Tensors
    rule: Any
    fallback: Any


@dataclass(frozen=True)
class Guard(WrappedRule):
    """A rule whose blocks of steps count where they end at a lower loss than those of a fall-back.

    A step is one of both, and costs both; within a block the networks are those of the fall-back. The rule draws from
    generators of its own, so that a rule which is never taken leaves exactly the fall-back.
    """

    fallback: Annotated[Any, CHOSEN_RULE] = field(default_factory=SGDRule)
    """Rule that is at least as good in every block, an `UpdateRule` by name."""
    block: int = 50
    """Steps n_t between two decisions."""
    rule_steps: int | None = None
    """Of these, the steps that the rule takes, the first ones, such as 1 update of a G.pt; all where not given."""
    num_batches: int = 8
    """Mini-batches n_c of training examples that decide, drawn anew for each decision."""
    metric: str | None = None
    """Decide by this metric on the whole validation split instead."""

    def __post_init__(self) -> None:
        check_at_least(self, block=1, rule_steps=1, num_batches=1)

    @property
    def name(self) -> str:
        """In tables and figures."""
        return f"{self.inner.name} guarded by {self.fallback.name}"

    def draw(self, num_networks: int, generator: torch.Generator) -> tuple[Self, list[dict[str, Any]]]:
        """See `DrawnRule`: what both draw; what the guarded rule draws is recorded."""
        rule, drawn = super().draw(num_networks, generator)
        if isinstance(self.fallback, DrawnRule):
            rule = replace(rule, fallback=self.fallback.draw(num_networks, generator)[0])
        return rule, drawn

    def init(self, params: Tensors, task: Task) -> GuardState:
        """See `UpdateRule`."""
        return GuardState({}, self.inner.init(params, task), self.fallback.init(params, task))

    def step(self, params: Tensors, state: GuardState, problem: Problem) -> tuple[Tensors, GuardState]:
        """See `UpdateRule`."""
        place, (tried, rule, fallback) = problem.step % self.block, state
        if place == 0:
            tried = {name: tensor.clone() for name, tensor in params.items()}
        params, fallback = self.fallback.step(params, fallback, problem)
        if place < (self.rule_steps or self.block):
            own = problem.apart("guarded rule")
            tried, rule = self.inner.step(tried, rule, own)
            problem.cost = own.cost
        if place + 1 == self.block or problem.step + 1 == problem.num_steps:
            taken = self.taken(tried, params, problem)
            params = {n: t.where(~taken.view(-1, *(1,) * (t.dim() - 1)), tried[n]) for n, t in params.items()}
        return params, GuardState(tried, rule, fallback)

    def taken(self, tried: Tensors, others: Tensors, problem: Problem) -> Tensor:
        """Of which networks those of the rule go on: (B,)."""
        import torch

        both, own = {name: torch.cat([tried[name], others[name]]) for name in others}, problem.apart("guard")
        if self.metric is None:
            losses = own.losses(both, self.num_batches)
            problem.cost = own.cost + Cost(losses=self.num_batches)  # two networks were measured for each
        else:
            losses = own.metric(both, self.metric) * (1 if problem.task.metric(self.metric).minimize else -1)
            problem.cost = own.cost + Cost(metrics=1)
        candidates, fallback = losses.chunk(2)
        return lowest(candidates[None], fallback) >= 0


def lowest(candidates: Tensor, fallback: Tensor) -> Tensor:
    """Number of the candidate with the lowest loss, or -1 where none is below the fall-back: (K, B) and (B,) to (B,).

    A loss that is not finite is never the lower one: any candidate with a finite loss is below such a fall-back.
    """
    import torch

    losses, bar = (given.nan_to_num(torch.inf, torch.inf, torch.inf) for given in (candidates, fallback))
    best = losses.min(dim=0)
    return torch.where(best.values < bar, best.indices, -1)
