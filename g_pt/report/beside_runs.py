"""One update beside the runs that it was learned from: the mean run, the best of them, what many answer on average.

B = networks, P = parameters per network. All metrics are means on the test split.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from g_pt.evaluation.ensembles import ensemble_metrics, function_metrics, mean_predictions
from g_pt.evaluation.statistics import Interval
from g_pt.networks.metrics import Metric
from g_pt.report.section import Subject, Table
from g_pt.tasks.base import Task
from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.regression import RegressionTask

ONE_UPDATE = "one update"
# how a row of runs is called, by the name of its fact
RUNS = {
    "trained_runs": "a run, mean of {} held out",
    "best_run": "the best run of {}",
    "mean_answer": "the mean answer of {} runs",
}
FUNCTION_METRICS = {"ece": Metric("calibration error", "%"), "disagreement": Metric("two networks disagree", "%")}


def beside_runs(subject: Subject, updated: Tensor) -> dict[str, dict[str, float]]:
    """Means by metric, for the updates (B, P), raw, for runs as far as the model knows them, for mean answers.

    Where networks predict something for examples, `disagreement` says how much two of them differ, and classifiers
    have a calibration error `ece`.
    """
    task, facts = subject.task, subject.pipeline.facts
    found = {ONE_UPDATE: means(task.evaluate(updated, "test"))}
    for fact, name in RUNS.items():
        runs = getattr(facts, fact)
        if runs is not None and runs.num_runs is not None:
            found[name.format(f"{runs.num_runs:,}")] = {k.removeprefix("test_"): mean for k, mean in runs.means.items()}
    if isinstance(task, ClassificationTask | RegressionTask):
        found[ONE_UPDATE] |= means(function_metrics(task, updated))
        answers = mean_predictions(task, updated, task.examples("test").inputs)
        found[f"the mean answer of {len(updated)} updates"] = means(ensemble_metrics(task, answers[None, None]))
    return found


def means(measured: dict[str, Tensor]) -> dict[str, float]:
    """Mean of each metric over the networks."""
    return {name: values.mean().item() for name, values in measured.items() if name != "coverage"}


def comparison_note(facts: dict[str, Any], task: Task) -> str:
    """Say, metric by metric, what one update is better than."""
    own, sentences = facts["beside_runs"][ONE_UPDATE], []
    for name, metric in task.metrics.items():
        found: dict[bool, list[str]] = {True: [], False: []}
        for who, values in facts["beside_runs"].items():
            if who != ONE_UPDATE and "updates" not in who and name in values:
                sign = 1 if metric.minimize else -1
                found[sign * own[name] < sign * values[name]].append(f"{who} ({values[name]:.4g})")
        known = [
            f"{'better' if is_better else 'not better'} than {', '.join(w)}" for is_better, w in found.items() if w
        ]
        sentences += [f"{metric.name} {own[name]:.4g}: {'; '.join(known)}."] if known else []
    return " ".join([f"One update, mean of {facts['networks']} networks.", *sentences])


def quality_table(facts: dict[str, Any], task: Task) -> Table:
    """Before, after one update, and what the updates are compared with."""
    before, after, beside = facts["starting"], facts["one_update"], facts["beside_runs"]
    metrics = {**task.metrics, **FUNCTION_METRICS}
    names = [name for name in metrics if any(name in values for values in beside.values())]

    def cells(means: dict[str, float], intervals: dict[str, Any]) -> list[str]:
        known = {name: f"{value:.4g}" for name, value in means.items()}
        known |= {name: f"{Interval(**intervals[f'test_{name}'])}" for name in names if f"test_{name}" in intervals}
        return [known.get(name, "-") for name in names]

    rows = [("before", *cells({}, before))]
    for who, values in beside.items():
        is_update = who == ONE_UPDATE
        name = f"{who}, prompt {after['prompt']:.3g}" if is_update else who
        rows.append((name, *cells(values, after if is_update else {})))
    return Table(
        f"one update: {facts['networks']} unseen inits, test split",
        ("networks", *(metrics[name].label for name in names)),
        tuple(rows),
    )
