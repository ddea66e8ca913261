"""Courses of registered rules, each with the settings that suit the number of its steps best.

B = networks, S = numbers of steps at which networks are measured, P = parameters per network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from g_pt.report.section import Subject
from g_pt.tasks.base import Task
from g_pt.update_rules.base import Cost, UpdateRule
from g_pt.update_rules.gradient import GradientRule
from g_pt.update_rules.problem import follow
from g_pt.update_rules.prompted import SavedPromptRule
from g_pt.update_rules.registry import RULES, make_rule
from g_pt.update_rules.tuning import Budget, Trials, search_space, tune, with_settings

TUNING_NETWORKS, NUM_ORDERS = 16, 2
NUM_TRIALS, LOWEST_RUNG = 12, 3  # settings tried for each rule, and the last rung over the first
STEPS_PER_DECADE = 12
TIMED_STEPS = 99  # after the first: with it, whole blocks of a guard


def rivals(params: dict[str, Tensor], task: Task) -> tuple[dict[str, UpdateRule[Any]], dict[str, str]]:
    """Registered rules that can change these networks of a task, and of the others the reasons, by name."""
    served: dict[str, UpdateRule[Any]] = {}
    left_out: dict[str, str] = {}
    for name in RULES:
        rule = usual(make_rule(name))
        try:
            if isinstance(rule, SavedPromptRule):
                raise ValueError("a model is what the others are compared with")
            rule.init(params, task)
            if not search_space(rule):
                raise ValueError("its class does not say which settings are worth tuning")
        except ValueError as error:
            left_out[rule.name] = str(error)
        else:
            served[rule.name] = rule
    return served, left_out


def usual(rule: Any) -> Any:
    """A rule at a constant learning rate, with the usual settings of its optimizer; and so the rules inside it."""
    if isinstance(rule, GradientRule):
        return replace(rule, schedule="constant", optimizer=type(rule.optimizer)())
    inner = {f.name: usual(getattr(rule, f.name)) for f in fields(rule) if is_dataclass(getattr(rule, f.name))}
    return replace(rule, **inner)


@dataclass(frozen=True)
class Course:
    """A rule on the networks of the test.

    Attributes:
        trials: of the search for its settings, on the validation split, with other networks.
        settings: by dotted name, those that were best after each number of steps: S.
        test: `{metric: (B, S)}` on the test split, after each number of steps with that number's settings.
        cost: of a step, for each network; seconds are those of all B networks at once.
    """

    trials: Trials
    settings: list[dict[str, Any]]
    test: dict[str, Tensor]
    cost: dict[str, float]

    @property
    def at_edge(self) -> bool:
        """Whether a setting is the lowest or the highest that was tried."""
        tried = {name: [t.settings[name] for t in self.trials.all] for name in self.settings[0]}
        return any(own[name] in (min(values), max(values)) for own in self.settings for name, values in tried.items())


def measured_steps(last: int) -> list[int]:
    """About evenly spaced in the logarithm, from 1 to `last`."""
    steps, k = {last}, 0
    while (step := round(10 ** (k / STEPS_PER_DECADE))) < last:
        steps.add(step)
        k += 1
    return sorted(steps)


def run_rival(
    name: str,
    rule: UpdateRule[Any],
    subject: Subject,
    starts: Tensor,
    steps: Sequence[int],
    tuning_starts: Tensor,
) -> Course:
    """Tune on other networks (b, P), then run on the starts (B, P), raw; `name` is what the random numbers go by."""
    task, batch_size = subject.task, subject.harvest.batch_size
    budget = Budget(
        NUM_TRIALS, steps[-1], max(1, steps[-1] // LOWEST_RUNG), num_orders=NUM_ORDERS, batch_size=batch_size
    )
    seed, metric = subject.generator(f"{name}/tuning").initial_seed(), subject.metric.name
    space = search_space(rule)
    trials = tune(rule, space, task, budget, metric=metric, seed=seed, measured=steps, starts=tuning_starts)
    best = [trials.best_at(step) for step in steps]
    test: dict[str, Tensor] = {n: torch.empty(len(starts), len(steps)) for n in task.metrics}
    for trial in {id(t): t for t in best}.values():
        needed = [i for i, own in enumerate(best) if own is trial]
        for order, rows in enumerate(torch.arange(len(starts)).chunk(NUM_ORDERS)):
            # networks that share their mini-batches share the noise of the last ones too: several orders of these
            path = follow(
                with_settings(rule, trial.settings), task, starts[rows], subject.generator(f"{name}/test/{order}"),
                batch_size=batch_size, steps=[steps[i] for i in needed],
            )  # fmt: skip
            for i, (params, _) in zip(needed, path, strict=True):
                for metric_name, values in task.evaluate(params, "test").items():
                    test[metric_name][rows, i] = values.cpu()
    last = with_settings(rule, best[-1].settings)
    return Course(trials, [t.settings for t in best], test, cost_of_step(last, subject, starts, TIMED_STEPS))


def cost_of_step(rule: UpdateRule[Any], subject: Subject, starts: Tensor, num: int) -> dict[str, float]:
    """Mean cost of a step for each network, and its seconds for all of them at once; the first step does not count."""
    path = follow(rule, subject.task, starts, subject.generator("time"), batch_size=subject.harvest.batch_size,
                  steps=[1, 1 + num])  # fmt: skip
    (_, first), (_, last) = path
    cost = {f.name: (getattr(last, f.name) - getattr(first, f.name)) / num for f in fields(Cost)}
    return cost | {"seconds": cost["seconds"] * len(starts), "state_bytes": last.state_bytes}
