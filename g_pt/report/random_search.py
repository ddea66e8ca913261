"""Random search as a baseline for the network itself: the best of K random settings, for the steps of one harvest.

Li and Talwalkar 2019: early-stopped random search is hard to beat, and always to be shown.

B = networks.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation.statistics import summary
from g_pt.report.courses import cost_of_step, usual
from g_pt.report.section import Section, Subject, Table
from g_pt.tasks.base import TrainableTask
from g_pt.update_rules.problem import follow
from g_pt.update_rules.prompted import PromptRule
from g_pt.update_rules.registry import make_rule, rule_name
from g_pt.update_rules.tuning import Budget, Trial, search_space, tune, with_settings

SEARCHED = ("sgd", "nesterov", "adam", "adamw")  # each takes its share of the steps
WEIGHT_DECAY = [0.0, 1e-3]
STEPS_OVER_HARVEST, ETA, MEASURED = 2, 3, 8  # the last rung over the steps of a training run, and where it is measured
NUM_NETWORKS, NUM_FINALISTS, AT_ONCE, TIMED_STEPS = 64, 16, 250, 20
MOST_WORK = 4e9  # steps times parameters: a minute or two; of a larger harvest, the share that is as much


def measure_random_search(subject: Subject) -> Section | None:
    """What random settings with early stopping reach; None without losses on examples or a harvest that is known."""
    task, metric, runs = subject.task, subject.metric, subject.pipeline.facts.dataset.num_runs
    if not isinstance(task, TrainableTask) or runs is None:
        return None
    harvest = subject.harvest
    whole, most = runs * harvest.num_steps, STEPS_OVER_HARVEST * harvest.num_steps
    budget = Budget(1, most, max(1, most // ETA**2), ETA, num_networks=1, num_orders=1, batch_size=harvest.batch_size)
    # a rung costs as much as any other: a share 1/eta of the trials, for eta times the steps
    spent = min(whole, round(MOST_WORK / task.layout.num_params)) // len(SEARCHED)
    budget = replace(budget, num_trials=max(ETA**2, spent // (budget.rungs[0] * len(budget.rungs))))
    started, found = time.perf_counter(), []
    for name in SEARCHED:
        subject.progress(f"{budget.num_trials} random settings of {name}")
        rule, seed = usual(make_rule(name)), subject.generator(f"random_search/{name}").initial_seed()
        space = search_space(rule) | {"optimizer.weight_decay": WEIGHT_DECAY}
        measured = sorted({most * k // MEASURED for k in range(1, MEASURED)} - {0})
        found.append((rule, tune(rule, space, task, budget, metric=metric.name, seed=seed, measured=measured)))
    seconds, taken = time.perf_counter() - started, sum(trials.steps_taken for _, trials in found)
    generator = subject.generator("random_search")
    starts, others = (task.init(num, generator) for num in (min(subject.num_networks, NUM_NETWORKS), NUM_FINALISTS))
    finalists = sorted(
        ((*one, rule) for rule, trials in found for one in trials.early_stopped()), key=lambda one: one[0]
    )

    def trained(finalist: tuple[float, Trial, int, Any], starts: Tensor) -> Tensor:
        _, trial, stop, rule = finalist
        searched = with_settings(rule, trial.settings)
        return next(follow(searched, task, starts, generator, batch_size=harvest.batch_size, steps=[stop]))[0]

    # a network of its own was luck for some: the best few are judged once more, on others
    again = [trained(one, others) for one in finalists[:NUM_FINALISTS]]
    values = torch.stack([task.evaluate(params, "validation")[metric.name].mean().cpu() for params in again])
    worst = torch.inf if metric.minimize else -torch.inf
    finalist = finalists[int(metric.argbest(values.nan_to_num(worst, worst, worst)))]
    _, best, stop, rule = finalist
    ends = trained(finalist, starts)
    g_pt = PromptRule(subject.pipeline, subject.best_prompt, subject.num_inference_steps)
    updated, _ = next(follow(g_pt, task, starts, generator))
    some = task.init(min(AT_ONCE, runs), generator)
    step_seconds = cost_of_step(usual(harvest.rule), subject, some, TIMED_STEPS)["seconds"]
    harvest_seconds = whole / len(some) * step_seconds
    num = budget.num_trials * len(SEARCHED)
    results = {"one update": facts(subject, updated), f"{rule.name}, best settings": facts(subject, ends)}
    one_update, best_settings = results.values()
    return Section(
        name="random_search",
        title="Random search for the steps of one harvest",
        facts={
            "settings": num,
            "network_steps": taken,
            "network_steps_of_the_harvest": whole,
            "seconds": seconds,
            "seconds_of_the_harvest": harvest_seconds,
            "best": {"rule": rule_name(rule), "settings": best.settings, "steps": stop},
            "one_update": one_update,
            "best_settings": best_settings,
        },
        tables=(table(subject, results, len(ends)),),
        notes=(
            f"{num:,} settings of {len(SEARCHED)} rules: learning rate and weight decay, one network each, stopped "
            f"early by ASHA and at the best of {MEASURED} moments on the validation split: {taken:,} steps of networks "
            f"in {seconds:.0f} s. The harvest of the training runs took {whole:,}, about {harvest_seconds:.0f} s here. "
            f"The best {NUM_FINALISTS} were judged again by as many other networks, which does not count in this.",
            f"The best settings, {best.settings}, then trained networks from the inits of the update for {stop} steps.",
        ),
    )


def facts(subject: Subject, params: Tensor) -> dict[str, dict[str, float]]:
    """Test metrics of networks (B, P): their mean, and that of the network that is best on the validation split."""
    task, name = subject.task, subject.metric.name
    best = int(subject.metric.argbest(task.evaluate(params, "validation")[name].cpu()))
    measured = task.evaluate(params, "test")
    return {f"test_{n}": summary(v.cpu()) | {"best_on_validation": v[best].item()} for n, v in measured.items()}


def table(subject: Subject, results: dict[str, dict[str, dict[str, float]]], num: int) -> Table:
    """Means, and the best network."""
    rows = []
    for name, found in results.items():
        means = (f"{one['mean']:.3g} [{one['low']:.3g}, {one['high']:.3g}]" for one in found.values())
        rows.append((name, *means))
        rows.append((f"{name}: the best on validation", *(f"{f['best_on_validation']:.3g}" for f in found.values())))
    return Table(f"test metrics of {num} networks from the same unseen inits", ("", *subject.task.metrics), tuple(rows))
