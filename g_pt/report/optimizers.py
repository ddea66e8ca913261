"""One update against N steps of every registered rule, each with the settings that suit the number of its steps best.

B = networks, S = numbers of steps at which networks are measured, P = parameters per network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from g_pt.evaluation.statistics import bootstrap_mean, bootstrap_median, finite, first_reached, summary
from g_pt.networks.metrics import Metric
from g_pt.report.courses import (
    LOWEST_RUNG,
    NUM_ORDERS,
    NUM_TRIALS,
    STEPS_PER_DECADE,
    TUNING_NETWORKS,
    Course,
    cost_of_step,
    measured_steps,
    rivals,
    run_rival,
)
from g_pt.report.section import Section, Subject, Table
from g_pt.tasks.base import TrainableTask
from g_pt.update_rules.gradient import GradientRule
from g_pt.update_rules.problem import follow
from g_pt.update_rules.prompted import PromptRule

NUM_NETWORKS = 64
TIMED_UPDATES = 3
NUM_CONTINUED = 2  # rules that go on from an update: the best of those around no other rule


@dataclass(frozen=True)
class OneUpdate:
    """One update of the G.pt, which the rules are compared with.

    Attributes:
        prompt: raw.
        params: (B, P) after it, raw.
        test: `{metric: (B,)}` after it, on the test split.
        before: the same before it.
        cost: of it, for each network; seconds are those of all B networks at once.
    """

    prompt: float
    params: Tensor
    test: dict[str, Tensor]
    before: dict[str, Tensor]
    cost: dict[str, float]


def measure_optimizers(subject: Subject) -> Section | None:
    """How many steps rules take to what one update reaches; None where no loss on examples says how to train.

    Every rule has the settings that were best, on the validation split and networks of its own, for just the number of
    steps at which it is measured, out of as many as every other rule.
    """
    task = subject.task
    if not isinstance(task, TrainableTask):
        return None
    starts = task.init(min(subject.num_networks, NUM_NETWORKS), subject.generator("optimizers"))
    others = task.init(TUNING_NETWORKS, subject.generator("optimizers/tuning networks"))
    update = one_update(subject, starts)
    steps = measured_steps(subject.optimizer_steps)
    rules, left_out = rivals(task.layout.unflatten(starts), task)
    courses: dict[str, Course] = {}
    for name, rule in rules.items():
        subject.progress(f"{steps[-1]} steps of {name}")
        courses[name] = run_rival(f"optimizers/{name}", rule, subject, starts, steps, others)
    plain = [name for name in courses if isinstance(rules[name], GradientRule)]
    best = sorted(plain, key=lambda n: courses[n].trials.badness(courses[n].trials.best_at(steps[-1]), steps[-1]))
    updated_others = one_update(subject, others).params
    continued = {}
    for name in best[:NUM_CONTINUED]:
        subject.progress(f"one update, then {steps[-1]} steps of {name}")
        key = f"optimizers/after an update/{name}"
        continued[name] = run_rival(key, rules[name], subject, update.params, steps, updated_others)
    return make_section(subject, update, courses, continued, left_out, steps)


def one_update(subject: Subject, starts: Tensor) -> OneUpdate:
    """Give every network one update at the best prompt, and measure it."""
    task, prompt = subject.task, subject.best_prompt
    rule = PromptRule(subject.pipeline, prompt, subject.num_inference_steps)
    updated, _ = next(follow(rule, task, starts, subject.generator("optimizers/update")))
    after, before = ({n: v.cpu() for n, v in task.evaluate(p, "test").items()} for p in (updated, starts))
    return OneUpdate(prompt, updated, after, before, cost_of_step(rule, subject, starts, TIMED_UPDATES))


def make_section(
    subject: Subject,
    update: OneUpdate,
    courses: dict[str, Course],
    continued: dict[str, Course],
    left_out: dict[str, str],
    steps: list[int],
) -> Section:
    """Facts, tables and figures."""
    metric, batch_size = subject.metric, subject.harvest.batch_size
    wanted = update.test[metric.name]
    reached = {n: first_reached(c.test[metric.name], steps, wanted, metric) for n, c in courses.items()}
    notes = [
        f"Settings are constant, and for each number of steps on its own the best of {NUM_TRIALS} on the validation "
        f"split and {TUNING_NETWORKS} other networks, found by ASHA: all go for {max(1, steps[-1] // LOWEST_RUNG)} "
        f"steps, the best third for {steps[-1]}. Mini-batches of {batch_size} in {NUM_ORDERS} "
        f"orders. A number of steps is the first of {len(steps)} measured ones, {STEPS_PER_DECADE} per decade.",
        "Costs are those of one network, but for seconds, which are those of all of them at once.",
        *(f"Not here: {name}: {reason}." for name, reason in left_out.items()),
    ]
    edges = [name for name, course in courses.items() if course.at_edge]
    if edges:
        notes.append(f"For some number of steps the best setting is the lowest or highest tried: {', '.join(edges)}.")
    values = {name: course.test[metric.name] for name, course in courses.items()}
    tables = [
        curve_table(values, steps, wanted, update.before[metric.name], metric),
        cost_table(courses, reached, steps[-1], update.cost, len(wanted)),
    ]
    moments = [float(step) for step in steps]
    over_steps = {name: (moments, curve) for name, curve in values.items()}
    over_time = {n: ([s * c.cost["seconds"] for s in steps], values[n]) for n, c in courses.items()}
    axis, at = f"seconds, {len(wanted)} networks at once", update.cost["seconds"]
    figures = {
        "optimizers.png": partial(draw_curves, over_steps, wanted, metric),
        "optimizers_time.png": partial(draw_curves, over_time, wanted, metric, axis=axis, at=at),
    }
    if continued:
        after = {f"G.pt, then {name}": course.test[metric.name] for name, course in continued.items()}
        both = {name: values[name] for name in continued} | after
        tables.append(curve_table(both, steps, wanted, update.before[metric.name], metric))
        curves = {name: (moments, curve) for name, curve in both.items()}
        figures["optimizers_after.png"] = partial(draw_curves, curves, wanted, metric)
    return Section(
        name="optimizers",
        title="One update against N steps",
        facts={
            "networks": len(wanted),
            "batch_size": batch_size,
            "steps": steps,
            "before": {f"test_{name}": summary(values) for name, values in update.before.items()},
            "one_update": {
                "prompt": update.prompt,
                "cost": update.cost,
                **{f"test_{name}": summary(values) for name, values in update.test.items()},
            },
            "optimizers": {name: course_facts(c, reached[name], metric.name) for name, c in courses.items()},
            "after_one_update": {
                name: course_facts(c, first_reached(c.test[metric.name], steps, wanted, metric), metric.name)
                for name, c in continued.items()
            },
            "left_out": left_out,
        },
        tables=tuple(tables),
        notes=tuple(notes),
        figures=figures,
    )


def course_facts(course: Course, reached: Tensor, name: str) -> dict[str, Any]:
    """JSON: curves, costs, all trials, and how long it takes."""
    median = bootstrap_median(reached)
    return {
        "settings": course.settings,
        "at_edge_of_space": course.at_edge,
        "cost_of_step": course.cost,
        "steps_to_one_update": {
            "median": finite(median.mean),
            "low": finite(median.low),
            "high": finite(median.high),
            "share_that_reaches_it": reached.isfinite().double().mean().item(),
            "per_network": [finite(value) for value in reached.tolist()],
        },
        f"test_{name}": [summary(values) for values in course.test[name].T],
        **{f"test_{n}_mean": [finite(v) for v in values.mean(dim=0).tolist()] for n, values in course.test.items()},
        "trials": [{"settings": t.settings, "steps": max(t.curve), "validation": [*t.curve.values()][-1]}
                   for t in course.trials.all],
    }  # fmt: skip


def curve_table(
    curves: dict[str, Tensor], steps: Sequence[int], one_update: Tensor, before: Tensor, metric: Metric
) -> Table:
    """The metric after 1, 10, 100, ... steps."""
    shown = [i for i, step in enumerate(steps) if step in {1, 10, 100, 1000, 10_000} or step == steps[-1]]
    rows = [("G.pt", f"{bootstrap_mean(one_update):.3g}", *("" for _ in shown[1:]))]
    for name, values in curves.items():
        rows.append((name, *(f"{bootstrap_mean(values[:, i]):.3g}" for i in shown)))
    return Table(
        f"test {metric.label} after N steps: {len(one_update)} unseen inits, {bootstrap_mean(before):.3g} before",
        ("rule", *(f"{steps[i]} step{'s' * (steps[i] > 1)}" for i in shown)),
        tuple(rows),
    )


def cost_table(
    courses: dict[str, Course], reached: dict[str, Tensor], last: int, update: dict[str, float], num: int
) -> Table:
    """Steps, seconds and other costs to what one update reaches."""
    counts = ("gradients", "losses", "metrics", "model_passes")

    def row(name: str, steps: str, share: str, times: float, cost: dict[str, float]) -> tuple[str, ...]:
        beyond, times = ("", times) if times < float("inf") else ("> ", last)
        spent = [f"{beyond}{times * cost[kind]:.0f}" if cost[kind] else "" for kind in counts]
        kilobytes = f"{cost['state_bytes'] / 1024:.1f}" if cost["state_bytes"] else ""
        return (name, steps, share, f"{beyond}{times * cost['seconds']:.2f}", *spent, kilobytes)

    rows = [row("G.pt", "1", "", 1, update)]
    for name, course in courses.items():
        median, share = bootstrap_median(reached[name]), reached[name].isfinite().double().mean().item()
        low, middle, high = (
            f"{v:.0f}" if v < float("inf") else f"> {last}" for v in (median.low, median.mean, median.high)
        )
        rows.append(row(name, f"{middle} [{low}, {high}]", f"{100 * share:.0f} %", median.mean, course.cost))
    return Table(
        f"steps and seconds to each network's metric after one update: {num} unseen inits, test split",
        ("rule", "median steps", "networks that reach it", f"seconds, {num} networks at once", "gradients",
         "losses without gradient", "validation metrics", "passes of the model", "state, KB"),
        tuple(rows),
    )  # fmt: skip


def draw_curves(
    curves: dict[str, tuple[list[float], Tensor]], one_update: Tensor, metric: Metric, path: Path, **place: Any
) -> None:
    """The metric over steps or seconds, one line per rule, one update as a level line."""
    from g_pt.pictures.sections import save_optimizer_curves

    save_optimizer_curves(curves, one_update, path, metric, **place)
