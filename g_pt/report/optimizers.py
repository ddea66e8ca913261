"""One update against N steps of optimizers, each with the learning rate that suits the number of its steps best.

B = networks, L = learning rates, S = numbers of steps at which networks are measured, P = parameters per network.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation.statistics import bootstrap_mean, bootstrap_median, finite, first_reached, summary
from g_pt.networks.metrics import Metric
from g_pt.report.section import Section, Subject, Table
from g_pt.tasks.base import Split, TrainableTask
from g_pt.update_rules.base import Cost
from g_pt.update_rules.gradient import GradientRule
from g_pt.update_rules.problem import follow
from g_pt.update_rules.prompted import PromptRule
from g_pt.update_rules.registry import RULES, make_rule

NUM_NETWORKS, TUNING_NETWORKS, NUM_ORDERS = 64, 16, 4
RATES_PER_DECADE, STEPS_PER_DECADE = 3, 12
TIMED_STEPS, TIMED_UPDATES = 20, 3


def rivals() -> dict[str, GradientRule]:
    """Registered rules that the report tunes, by name: at a constant rate, with the usual settings of the optimizer."""
    rules = [make_rule(name) for name in RULES]
    return {
        rule.name: replace(rule, schedule="constant", optimizer=type(rule.optimizer)())
        for rule in rules
        if isinstance(rule, GradientRule) and rule.tuned_between is not None
    }


def rate_grid(lowest: float, highest: float) -> Tensor:
    """Learning rates evenly spaced in the logarithm: (L,)."""
    low, high = math.log10(lowest), math.log10(highest)
    return torch.logspace(low, high, round((high - low) * RATES_PER_DECADE) + 1)


@dataclass(frozen=True)
class Course:
    """An optimizer on the networks of the test.

    Attributes:
        rates: (S,) learning rate that was best on the validation split after so many steps, on other networks.
        test: `{metric: (B, S)}` on the test split, after each number of steps at that number's rate.
        at_edge: whether a rate lies at an end of the grid.
        seconds_per_step: of all B networks at once.
    """

    rates: Tensor
    test: dict[str, Tensor]
    at_edge: bool
    seconds_per_step: float


@dataclass(frozen=True)
class OneUpdate:
    """One update of the G.pt, which the optimizers are compared with.

    Attributes:
        prompt: raw.
        test: `{metric: (B,)}` after it, on the test split.
        before: the same before it.
        seconds: of all B networks at once.
        cost: of it, for each network.
    """

    prompt: float
    test: dict[str, Tensor]
    before: dict[str, Tensor]
    seconds: float
    cost: Cost

    @property
    def num_networks(self) -> int:
        """B."""
        return len(next(iter(self.test.values())))


def measured_steps(last: int) -> list[int]:
    """About evenly spaced in the logarithm, from 1 to `last`."""
    steps, k = {last}, 0
    while (step := round(10 ** (k / STEPS_PER_DECADE))) < last:
        steps.add(step)
        k += 1
    return sorted(steps)


@dataclass(frozen=True)
class Trial:
    """A rule on a task.

    Attributes:
        rule: at whatever learning rate.
        task: what the networks are and learn.
        batch_size: examples per step.
    """

    rule: GradientRule
    task: TrainableTask
    batch_size: int

    def measured(
        self, rates: Tensor, starts: Tensor, steps: Sequence[int], split: Split, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Metrics after each number of steps, for every rate (L,) on every start (B, P): `{metric: (L, B, S)}`."""
        grid = replace(self.rule, learning_rate=tuple(rates.repeat_interleave(len(starts)).tolist()))
        path = follow(grid, self.task, starts.repeat(len(rates), 1), generator, batch_size=self.batch_size, steps=steps)
        found = [self.task.evaluate(params, split) for params, _ in path]
        joined = {name: torch.stack([values[name].cpu() for values in found], dim=1) for name in found[0]}
        return {name: values.view(len(rates), len(starts), -1) for name, values in joined.items()}


def follow_rates(
    trial: Trial,
    rates: Tensor,
    starts: Tensor,
    steps: Sequence[int],
    split: Split,
    generator: Callable[[int], torch.Generator],
) -> dict[str, Tensor]:
    """Metrics after each number of steps, for every rate (L,) on every start (B, P): `{metric: (L, B, S)}`.

    Networks that share their mini-batches share the noise of the last ones too: the starts are divided among several
    orders of the mini-batches, each with a generator of its own.
    """
    parts = [
        trial.measured(rates, some, steps, split, generator(order))
        for order, some in enumerate(starts.chunk(NUM_ORDERS))
    ]
    return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}


def tune(
    trial: Trial,
    rates: Tensor,
    starts: Tensor,
    steps: Sequence[int],
    metric: Metric,
    generator: Callable[[int], torch.Generator],
) -> Tensor:
    """Index of the rate (L,) with the best mean validation metric over starts (B, P), per number of steps: (S,)."""
    values = follow_rates(trial, rates, starts, steps, "validation", generator)[metric.name].mean(dim=1)  # (L, S)
    worst = torch.inf if metric.minimize else -torch.inf
    return metric.argbest(values.nan_to_num(worst, worst, worst).T)


def run_rival(name: str, trial: Trial, subject: Subject, starts: Tensor, steps: Sequence[int]) -> Course:
    """Tune on networks of its own, then run on the starts (B, P), raw."""
    assert trial.rule.tuned_between is not None
    key, rates, task = f"optimizers/{name}", rate_grid(*trial.rule.tuned_between), trial.task
    others = task.init(TUNING_NETWORKS, subject.generator("optimizers/tuning networks"))
    tuning, testing = (lambda k, part=part: subject.generator(f"{key}/{part}/{k}") for part in ("tuning", "test"))
    best = tune(trial, rates, others, steps, subject.metric, tuning)
    chosen, place = best.unique(return_inverse=True)
    # every chosen rate goes all the way; what counts after S steps is the rate chosen for S steps
    measured = follow_rates(trial, rates[chosen], starts, steps, "test", testing)
    test = {name: values[place, :, torch.arange(len(steps))].T for name, values in measured.items()}
    single = replace(trial.rule, learning_rate=rates[best[-1]].item())
    path = follow(single, task, starts, subject.generator(f"{key}/time"), batch_size=trial.batch_size)
    at_edge = len(rates) > 1 and bool(((best == 0) | (best == len(rates) - 1)).any())
    return Course(rates[best], test, at_edge, seconds_per_step(path, len(starts), TIMED_STEPS))


def seconds_per_step(path: Iterator[tuple[Tensor, Cost]], num_networks: int, num: int) -> float:
    """Median time of a step of all networks at once; the first one, which is slower, does not count."""
    moments = [num_networks * cost.seconds for _, cost in islice(path, num + 1)]
    return statistics.median(after - before for before, after in pairwise(moments))


def measure_optimizers(subject: Subject) -> Section | None:
    """How many steps the optimizers take to what one update reaches; None where no loss on examples says how to train.

    Every optimizer has the learning rate that was best, on the validation split and networks of its own, for just the
    number of steps at which it is measured.
    """
    task = subject.task
    if not isinstance(task, TrainableTask):
        return None
    generator = subject.generator("optimizers")
    starts = task.init(min(subject.num_networks, NUM_NETWORKS), generator)
    prompt = subject.best_prompt
    g_pt = PromptRule(subject.pipeline, prompt, subject.num_inference_steps)
    updated, cost = next(follow(g_pt, task, starts, generator))
    seconds = seconds_per_step(follow(g_pt, task, starts, generator), len(starts), TIMED_UPDATES)
    one_update = {name: values.cpu() for name, values in task.evaluate(updated, "test").items()}
    before = {name: values.cpu() for name, values in task.evaluate(starts, "test").items()}

    steps = measured_steps(subject.optimizer_steps)
    batch_size = subject.harvest.batch_size
    courses: dict[str, Course] = {}
    for name, rule in rivals().items():
        subject.progress(f"{subject.optimizer_steps} steps of {name}")
        courses[name] = run_rival(name, Trial(rule, task, batch_size), subject, starts, steps)
    update = OneUpdate(prompt, one_update, before, seconds, cost)
    return make_section(subject, update, courses, steps, batch_size)


def make_section(
    subject: Subject, update: OneUpdate, courses: dict[str, Course], steps: list[int], batch_size: int
) -> Section:
    """Facts, tables and the figure."""
    metric, num = subject.metric, update.num_networks
    wanted = update.test[metric.name]
    reached = {n: first_reached(c.test[metric.name], steps, wanted, metric) for n, c in courses.items()}
    notes = [
        f"Learning rates are constant, and tuned on the validation split with {TUNING_NETWORKS} other networks for "
        f"each number of steps on its own, {RATES_PER_DECADE} per decade; mini-batches of {batch_size} in {NUM_ORDERS} "
        f"orders. A number of "
        f"steps is the first of {len(steps)} measured ones, {STEPS_PER_DECADE} per decade.",
        f"One update takes {update.cost.model_passes} forward passes of the model for each network, one measurement on "
        f"the validation split and no gradient: {update.seconds:.2f} s for all {num} networks.",
    ]
    edges = [name for name, course in courses.items() if course.at_edge]
    if edges:
        notes.append(f"For some number of steps the best rate lies at an end of its grid: {', '.join(edges)}.")
    return Section(
        name="optimizers",
        title="One update against N steps",
        facts={
            "networks": num,
            "batch_size": batch_size,
            "steps": steps,
            "before": {f"test_{name}": summary(values) for name, values in update.before.items()},
            "one_update": {
                "prompt": update.prompt,
                "seconds_for_all_networks": update.seconds,
                "gradients": update.cost.gradients,
                "forward_passes_of_the_model": update.cost.model_passes,
                **{f"test_{name}": summary(values) for name, values in update.test.items()},
            },
            "optimizers": {name: course_facts(c, reached[name], metric.name) for name, c in courses.items()},
        },
        tables=(
            curve_table(courses, steps, wanted, update.before[metric.name], metric),
            cost_table(courses, reached, steps[-1], update.seconds, num),
        ),
        notes=tuple(notes),
        figures={"optimizers.png": partial(draw_courses, courses, steps, wanted, metric)},
    )


def course_facts(course: Course, reached: Tensor, name: str) -> dict[str, Any]:
    """JSON: curves, and how long it takes."""
    median = bootstrap_median(reached)
    return {
        "learning_rate": course.rates.tolist(),
        "at_edge_of_grid": course.at_edge,
        "seconds_per_step_for_all_networks": course.seconds_per_step,
        "steps_to_one_update": {
            "median": finite(median.mean),
            "low": finite(median.low),
            "high": finite(median.high),
            "share_that_reaches_it": reached.isfinite().double().mean().item(),
            "per_network": [finite(value) for value in reached.tolist()],
        },
        f"test_{name}": [summary(values) for values in course.test[name].T],
        **{f"test_{n}_mean": [finite(v) for v in values.mean(dim=0).tolist()] for n, values in course.test.items()},
    }


def curve_table(
    courses: dict[str, Course], steps: Sequence[int], one_update: Tensor, before: Tensor, metric: Metric
) -> Table:
    """The metric after 1, 10, 100, ... steps."""
    shown = [i for i, step in enumerate(steps) if step in {1, 10, 100, 1000, 10_000} or step == steps[-1]]
    rows = [("G.pt", f"{bootstrap_mean(one_update):.3g}", *("" for _ in shown[1:]))]
    for name, course in courses.items():
        rows.append((name, *(f"{bootstrap_mean(course.test[metric.name][:, i]):.3g}" for i in shown)))
    return Table(
        f"test {metric.label} after N steps: {len(one_update)} unseen inits, {bootstrap_mean(before):.3g} before",
        ("rule", *(f"{steps[i]} step{'s' * (steps[i] > 1)}" for i in shown)),
        tuple(rows),
    )


def cost_table(courses: dict[str, Course], reached: dict[str, Tensor], last: int, seconds: float, num: int) -> Table:
    """Steps, gradients and time to what one update reaches."""

    def at_most(value: float, unit: float, digits: int) -> str:
        return f"{value * unit:.{digits}f}" if value < float("inf") else f"> {last * unit:.{digits}f}"

    rows = [("G.pt", "1", "", "0", f"{seconds:.2f}")]
    for name, course in courses.items():
        median, share = bootstrap_median(reached[name]), reached[name].isfinite().double().mean().item()
        low, middle, high = (at_most(value, 1, 0) for value in (median.low, median.mean, median.high))
        took = at_most(median.mean, course.seconds_per_step, 2)
        rows.append((name, f"{middle} [{low}, {high}]", f"{100 * share:.0f} %", middle, took))
    return Table(
        f"what it takes to reach each network's metric after one update: {num} unseen inits, test split",
        ("rule", "median steps", "networks that reach it", "gradients per network", f"seconds, {num} networks at once"),
        tuple(rows),
    )


def draw_courses(
    courses: dict[str, Course], steps: Sequence[int], one_update: Tensor, metric: Metric, path: Path
) -> None:
    """The metric over steps, one line per optimizer, one update as a level line."""
    from g_pt.pictures.sections import save_optimizer_curves

    curves = {name: course.test[metric.name] for name, course in courses.items()}
    save_optimizer_curves(steps, curves, one_update, path, metric)
