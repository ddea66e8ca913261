"""Several rules in one population: each network is changed by one of them.

B = networks. Importing this file imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from g_pt.update_rules.base import Cost, DrawnRule, UpdateRule
from g_pt.update_rules.registry import rule_name, rule_settings

if TYPE_CHECKING:
    import torch

    from g_pt.tasks.base import Task
    from g_pt.update_rules.base import Problem, Tensors


@dataclass(frozen=True)
class MixedRule:
    """Rules that share a population about evenly: `--rule adam --rule foof`, or a list in YAML."""

    rules: tuple[Any, ...] = ()
    """Two rules or more; each network is changed by one of them, drawn at random."""
    name = "mixed"

    def __post_init__(self) -> None:
        if len(self.rules) < 2:
            raise ValueError(f"a mixture needs at least 2 rules, got {len(self.rules)}")

    def draw(self, num_networks: int, generator: torch.Generator) -> tuple[DividedRule, list[dict[str, Any]]]:
        """See `DrawnRule`: the rule of each network, recorded as `optimizer` and with all settings as `rule`."""
        import torch

        rows = torch.randperm(num_networks, generator=generator)  # not in turn: splits of runs go by their numbers
        drawn: list[UpdateRule[Any]] = []
        parts: list[list[int]] = []
        records: list[dict[str, Any]] = [{} for _ in range(num_networks)]
        for k, rule in enumerate(self.rules[:num_networks]):
            part = rows[k :: len(self.rules)].sort().values.tolist()
            own, about = rule.draw(len(part), generator) if isinstance(rule, DrawnRule) else (rule, [{}] * len(part))
            drawn.append(own)
            parts.append(part)
            for row, record in zip(part, about, strict=True):
                records[row] = {"optimizer": rule_name(rule), **record, "rule": rule_settings(rule)}
        return DividedRule(drawn, parts), records

    def init(self, params: Tensors, task: Task) -> list[Any]:
        """See `UpdateRule`: rules in turn, where nobody has drawn them."""
        return self._in_turn(params).init(params, task)

    def step(self, params: Tensors, state: list[Any], problem: Problem) -> tuple[Tensors, list[Any]]:
        """See `UpdateRule`."""
        return self._in_turn(params).step(params, state, problem)

    def _in_turn(self, params: Tensors) -> DividedRule:
        num, most = len(next(iter(params.values()))), len(self.rules)
        return DividedRule(self.rules[:num], [[*range(k, num, most)] for k in range(min(most, num))])


@dataclass(frozen=True)
class DividedRule:
    """Rules, each for networks of its own: the numbers of those of each rule are its part."""

    rules: Sequence[UpdateRule[Any]]
    parts: Sequence[list[int]]
    name = MixedRule.name

    def init(self, params: Tensors, task: Task) -> list[Any]:
        """See `UpdateRule`: a state for each rule."""
        each = zip(self.rules, self.parts, strict=True)
        return [rule.init({name: tensor[part] for name, tensor in params.items()}, task) for rule, part in each]

    def step(self, params: Tensors, state: list[Any], problem: Problem) -> tuple[Tensors, list[Any]]:
        """See `UpdateRule`; the cost of a step is that of the dearest rule."""
        before, costs, after = problem.cost, [], []
        for rule, part, own in zip(self.rules, self.parts, state, strict=True):
            problem.cost = before
            moved, own = rule.step({name: tensor[part] for name, tensor in params.items()}, own, problem)
            after.append(own)
            costs.append(problem.cost)
            for name, tensor in moved.items():
                params[name][part] = tensor
        problem.cost = dearest(costs)
        return params, after


def dearest(costs: Sequence[Cost]) -> Cost:
    """The largest of each kind of cost."""
    return Cost(*(max(getattr(cost, field.name) for cost in costs) for field in fields(Cost)))
