"""Tuning a rule's settings: random search and ASHA, many settings at once as stacked networks.

ASHA (Li et al. 2020, arXiv 1810.05934; Li and Talwalkar 2019): rungs of r eta^s steps. Who is among the best 1/eta of
all that reached a rung goes on to the next; as long as nobody is, new random settings begin at the bottom. One rung
alone is random search. A promoted trial begins again, on the mini-batches that it had: its result depends on its
settings, the seed and its steps only, so that an interrupted search goes on as it was. These steps are counted again.

B = networks of a trial, T = trials of a program.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from g_pt.files.config import check_at_least, merge
from g_pt.networks.metrics import Metric
from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks.base import Task
from g_pt.update_rules.base import UpdateRule
from g_pt.update_rules.problem import follow
from g_pt.update_rules.registry import plain, rule_settings

# dotted name of a setting -> two positive numbers between which it is drawn, log-uniformly, or a list to choose from
Space = Mapping[str, tuple[float, float] | list[Any]]


@dataclass(frozen=True)
class Budget:
    """What a search may spend.

    Attributes:
        num_trials: settings that are drawn.
        max_steps: of the last rung.
        min_steps: of the first rung, at the least; `max_steps` for random search.
        eta: share 1/eta of a rung goes on, for eta times the steps.
        at_once: trials in a round, before which promotions are decided; all of them where None.
        num_networks: B, the same for every trial.
        num_orders: of the mini-batches, among which the networks are divided.
        batch_size: examples per step.
    """

    num_trials: int
    max_steps: int
    min_steps: int = 1
    eta: int = 3
    at_once: int | None = None
    num_networks: int = 16
    num_orders: int = 4
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_at_least(
            self, num_trials=1, min_steps=1, max_steps=self.min_steps, eta=2, at_once=1, num_networks=1, num_orders=1,
            batch_size=1,
        )  # fmt: skip

    @property
    def rungs(self) -> list[int]:
        """Steps of each rung, rising."""
        steps = [self.max_steps]
        while steps[0] // self.eta >= self.min_steps:
            steps.insert(0, steps[0] // self.eta)
        return steps


@dataclass
class Trial:
    """Settings, and how far they came.

    Attributes:
        settings: by dotted name.
        curve: `{steps: mean validation metric}`, None where that of any network is not finite.
        reached: steps of the last run.
        steps_taken: by each network, in all runs.
    """

    settings: dict[str, Any]
    curve: dict[int, float | None] = field(default_factory=dict)
    reached: int = 0
    steps_taken: int = 0


@dataclass(frozen=True)
class Trials:
    """All trials of a search, and the metric that counts."""

    all: list[Trial]
    metric: Metric

    @property
    def best(self) -> Trial:
        """The best after the most steps that any trial took."""
        return self.best_at(max(trial.reached for trial in self.all))

    def best_at(self, steps: int) -> Trial:
        """The best of those that were measured after so many steps."""
        return min((t for t in self.all if steps in t.curve), key=lambda trial: self.badness(trial, steps))

    def early_stopped(self) -> list[tuple[float, Trial, int]]:
        """Badness of each trial at the best of its numbers of steps, the trial, and this number; the best first."""
        ends = [min((self.badness(t, steps), steps) for steps in t.curve) for t in self.all]
        found = [(badness, trial, steps) for (badness, steps), trial in zip(ends, self.all, strict=True)]
        return sorted(found, key=lambda entry: entry[0])

    def badness(self, trial: Trial, steps: int) -> float:
        """A number that is lower for a better trial."""
        value = trial.curve[steps]
        return math.inf if value is None else value if self.metric.minimize else -value

    @property
    def steps_taken(self) -> int:
        """By one network of every trial, together."""
        return sum(trial.steps_taken for trial in self.all)


def search_space(rule: UpdateRule[Any]) -> dict[str, tuple[float, float] | list[Any]]:
    """Settings of a rule that its class says are worth tuning (`tuned`), and those of the rules inside it."""
    space = dict(getattr(rule, "tuned", {}))
    inside = {f.name: getattr(rule, f.name) for f in fields(rule)}  # type: ignore[arg-type]
    for name, inner in inside.items():
        if isinstance(inner, UpdateRule):
            space |= {f"{name}.{setting}": values for setting, values in search_space(inner).items()}
    return space


def tune(
    rule: UpdateRule[Any],
    space: Space,
    task: Task,
    budget: Budget,
    *,
    metric: str,
    seed: int,
    measured: Sequence[int] = (),
    starts: Tensor | None = None,
    log: Path | None = None,
) -> Trials:
    """Search for the settings with the best mean validation metric over networks.

    Settings that a rule takes one of for each network (`float | tuple[float, ...]`), such as learning rates, share a
    program; each combination of the others has one of its own.

    Args:
        rule: whose settings are tuned; the others stay.
        space: what is drawn.
        task: what the networks are.
        budget: trials, steps, networks.
        metric: of the task.
        seed: of the settings, the networks and the mini-batches.
        measured: further numbers of steps after which networks are measured.
        starts: (B, P), in place of fresh networks.
        log: file of JSON lines: what is searched, then every run of a trial. A search goes on with the runs in it.

    Raises:
        ValueError: the rule has no such setting, or the log is of another search.
    """
    draws = drawn_settings(space, budget.num_trials, keyed_generator(seed, 0))
    found = Trials([Trial(settings) for settings in draws], task.metric(metric))
    stacked = {name for name in space if takes_one_each(with_settings(rule, draws[0]), name)}
    begin = task.init(budget.num_networks, keyed_generator(seed, 1)) if starts is None else starts
    search = plain({"rule": rule_settings(rule), "space": dict(space), "task": task.name, "metric": metric,
                    "seed": seed, "budget": asdict(budget), "fresh": starts is None})  # fmt: skip
    known = read_log(log, search)
    while jobs := next_jobs(found, budget):
        for end, group in programs(found, jobs, stacked):
            steps = sorted({step for step in measured if step < end} | {end})
            if not all((number, end) in known for number in group):
                settings = [found.all[number].settings for number in group]
                curves = measure(rule, settings, stacked, task, begin, steps, budget, metric, seed)
                made = {(n, end): dict(zip(steps, c, strict=True)) for n, c in zip(group, curves, strict=True)}
                append_log(log, made, found)
                known |= made
            for trial, number in ((found.all[number], number) for number in group):
                trial.curve, trial.reached = trial.curve | known[number, end], end
                trial.steps_taken += end
    return found


def drawn_settings(space: Space, num: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """Settings of trials: of each range one from every one of as many equal parts as there are trials, in any order."""
    drawn: list[dict[str, Any]] = [{} for _ in range(num)]
    for name, values in space.items():
        parts = torch.randperm(num, generator=generator) + torch.rand(num, generator=generator, dtype=torch.float64)
        for settings, share in zip(drawn, (parts / num).tolist(), strict=True):
            if isinstance(values, tuple):
                settings[name] = values[0] * (values[1] / values[0]) ** share
            else:
                settings[name] = values[int(share * len(values))]
    return drawn


def next_jobs(trials: Trials, budget: Budget) -> list[tuple[int, int]]:
    """Trials of the next round and the rung each is for, in steps: promotions, the highest first, then new ones."""
    every, rungs = trials.all, budget.rungs
    jobs: list[tuple[int, int]] = []
    for steps, after in reversed([*pairwise(rungs)]):
        there = [number for number, trial in enumerate(every) if trial.reached >= steps]
        there.sort(key=lambda number: trials.badness(every[number], steps))
        jobs += [(n, after) for n in there[: len(there) // budget.eta] if every[n].reached == steps]
    jobs += [(number, rungs[0]) for number, trial in enumerate(every) if not trial.reached]
    highest = max(trial.reached for trial in every)
    if not jobs and highest < rungs[-1]:  # too few for a promotion: the best goes on alone
        jobs = [(every.index(trials.best_at(highest)), rungs[rungs.index(highest) + 1])]
    return jobs[: budget.at_once]


def programs(trials: Trials, jobs: Sequence[tuple[int, int]], stacked: set[str]) -> list[tuple[int, list[int]]]:
    """Divide jobs into those of one rung that differ in stacked settings only: steps, and numbers of the trials."""
    groups: dict[tuple[int, str], list[int]] = {}
    for number, steps in jobs:
        others = {name: value for name, value in trials.all[number].settings.items() if name not in stacked}
        groups.setdefault((steps, json.dumps(others, sort_keys=True)), []).append(number)
    return [(steps, numbers) for (steps, _), numbers in groups.items()]


def measure(
    rule: UpdateRule[Any],
    settings: Sequence[dict[str, Any]],
    stacked: set[str],
    task: Task,
    starts: Tensor,
    steps: Sequence[int],
    budget: Budget,
    metric: str,
    seed: int,
) -> list[list[float | None]]:
    """Mean validation metric over networks (B, P) of each trial after each number of steps."""
    found = []
    for order, some in enumerate(starts.chunk(budget.num_orders)):
        joined = {name: tuple(own[name] for own in settings for _ in some) for name in stacked}
        path = follow(
            with_settings(rule, settings[0] | joined), task, some.repeat(len(settings), 1),
            keyed_generator(seed, 2, order), batch_size=budget.batch_size, steps=steps,
        )  # fmt: skip
        values = torch.stack([task.evaluate(params, "validation")[metric].cpu() for params, _ in path], dim=1)
        found.append(values.view(len(settings), len(some), -1))
    means = torch.cat(found, dim=1).double().mean(dim=1)
    return [[value if math.isfinite(value) else None for value in curve] for curve in means.tolist()]


def with_settings(rule: UpdateRule[Any], settings: Mapping[str, Any]) -> UpdateRule[Any]:
    """A rule with other settings, by dotted name.

    Raises:
        ValueError: it has no such setting; the message lists those that it has.
    """
    for dotted, value in settings.items():
        for name in reversed(dotted.split(".")):
            value = {name: value}
        rule = merge(rule, value, f"settings of {rule.name}")
    return rule


def takes_one_each(rule: UpdateRule[Any], dotted: str) -> bool:
    """Whether a setting may be a tuple, one for each network."""
    *path, name = dotted.split(".")
    holder = reduce(getattr, path, rule)
    return tuple[float, ...] in get_args(get_type_hints(type(holder))[name])


def read_log(log: Path | None, search: Mapping[str, Any]) -> dict[tuple[int, int], dict[int, float | None]]:
    """Curves in a log by number of the trial and steps; a log that is not there is begun.

    Raises:
        ValueError: it is of another search.
    """
    if log is None:
        return {}
    text, head = log.read_text() if log.exists() else "", json.dumps(search) + "\n"
    if not (text.startswith(head) or head.startswith(text)):
        raise ValueError(f"{log} must be the log of this search, which it is not: take another file, or delete it")
    whole = text[: text.rfind("\n") + 1] or head  # a kill leaves half a line
    log.write_text(whole)
    entries = [json.loads(line) for line in whole.splitlines()[1:]]
    return {(e["trial"], e["rung"]): {int(step): value for step, value in e["curve"].items()} for e in entries}


def append_log(log: Path | None, made: Mapping[tuple[int, int], dict[int, float | None]], trials: Trials) -> None:
    """Add runs to a log."""
    if log is not None:
        with log.open("a") as file:
            for (number, rung), curve in made.items():
                entry = {"trial": number, "settings": trials.all[number].settings, "rung": rung, "curve": curve}
                file.write(json.dumps(entry) + "\n")
