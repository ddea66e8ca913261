"""Facts of a dataset: scale of the parameters, range of the metric, quality of the runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from checkpoints_dataset.format import RunRecord, StoreError
from checkpoints_dataset.store import CheckpointStore
from g_pt.evaluation.ensembles import ensemble_metrics, function_metrics, mean_predictions
from g_pt.model.normalization import NormalizationMode, ParameterNormalizer
from g_pt.networks.metrics import Metric
from g_pt.networks.training_facts import DatasetFacts, SizeFacts, TrainedRuns, TrainingFacts
from g_pt.permutations.plans import plan_by_kind
from g_pt.tasks.base import Task
from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.family import Hidden, TaskFamily
from g_pt.tasks.regression import RegressionTask

ENSEMBLE_RUNS = 256  # more answer all but alike
STATISTICS_ROWS = 25_000  # as many as the reference estimates its scale from
REMEDY = (
    "harvest with more steps, another learning rate or, for policies, more episodes at a time, or have the task "
    "measure something that changes earlier"
)


def fit_normalizer(
    store: CheckpointStore, mode: NormalizationMode, *, max_runs: int | None = None, seed: int = 0
) -> ParameterNormalizer:
    """Fit the normaliser to random checkpoints of the first `max_runs` runs of the train split."""
    rows = row_numbers(store.some_runs_of("train")[:max_runs])
    if len(rows) > STATISTICS_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, STATISTICS_ROWS, replace=False))
    return ParameterNormalizer.fit(store.params(rows), store.header.layout, mode)


def fit_family_normalizer(
    stores: Mapping[Hidden, CheckpointStore],
    family: TaskFamily,
    *,
    max_runs: int | None = None,
    seed: int = 0,
) -> ParameterNormalizer:
    """Fit the scale of all parameters as a function of the network's size to the runs of each size."""
    kinds, scales, plans = family.kinds(), [], []
    for hidden, store in stores.items():
        scales.append(fit_normalizer(store, "global", max_runs=max_runs, seed=seed).std[0])
        plans.append(plan_by_kind(store.header.layout, family.permutations(hidden), kinds))
    default = family.member(family.default)
    plan = plan_by_kind(default.layout, family.permutations(family.default), kinds)
    return ParameterNormalizer.fit_sizes(plan, plans, torch.stack(scales))


def family_facts(
    stores: Mapping[Hidden, CheckpointStore],
    family: TaskFamily,
    metric: str,
    *,
    max_runs: int | None = None,
    width_range: tuple[int, int] | None = None,
) -> TrainingFacts:
    """Collect the facts of every size, and, as those of the family, the facts of its default size.

    `width_range` is that of the sizes that the last stage draws beside those harvested.
    """
    measured = {
        hidden: training_facts(store, family.member(hidden), metric, max_runs=max_runs)
        for hidden, store in stores.items()
    }
    sizes = tuple(
        SizeFacts(hidden, facts.seen(), facts.attainable(), facts.trained_runs) for hidden, facts in measured.items()
    )
    widths = [width for hidden in stores for width in hidden] + list(width_range or ())
    data = next(iter(measured.values())).dataset
    runs, rows = (
        sum(getattr(f.dataset, name) or 0 for f in measured.values()) for name in ("num_runs", "num_checkpoints")
    )
    # a harvest says the runs of one size, and its task that of one
    source = {name: value for name, value in data.source.items() if name not in ("kind", "task", "num_runs")}
    facts = replace(TrainingFacts(sizes=sizes).of_size(family.default), sizes=sizes)
    return replace(facts, dataset=DatasetFacts(runs, rows, source), width_range=(min(widths), max(widths)))


def training_facts(
    store: CheckpointStore, task: Task, metric_name: str, *, max_runs: int | None = None
) -> TrainingFacts:
    """Collect the facts that a pipeline keeps of its training data: the first `max_runs` runs of the train split.

    The runs of the test split are measured on the test split of the data.

    Raises:
        ValueError: the metric never moves in these runs, or never gets better than at their start.
    """
    num_runs, metric = len(store.some_runs_of("test")), task.metric(metric_name)
    ranges = stored_ranges(store, metric, max_runs)
    check_prompts(store, metric, ranges)
    finals = store.params(store.final_rows("test"))
    trained, answers = task.evaluate(finals, "test"), None
    ends = store.final_rows("train")[:max_runs]
    best = ends[int(metric.argbest(torch.from_numpy(store.metrics[metric_name][ends])))]
    if isinstance(task, ClassificationTask | RegressionTask):
        trained |= function_metrics(task, finals)
        some = store.params(ends[:ENSEMBLE_RUNS])
        mean = mean_predictions(task, some, task.examples("test").inputs)
        answers = of_test(ensemble_metrics(task, mean[None, None]), len(some))
    return replace(
        ranges,
        trained_runs=of_test(trained, num_runs),
        best_run=of_test(task.evaluate(store.params(np.array([best])), "test"), len(ends)),
        mean_answer=answers,
    )


def of_test(measured: dict[str, torch.Tensor], num_runs: int) -> TrainedRuns:
    """Means of what was measured on the test split."""
    return TrainedRuns({f"test_{name}": values.mean().item() for name, values in measured.items()}, num_runs)


def check_prompts(store: CheckpointStore, metric: Metric, ranges: TrainingFacts) -> None:
    """Refuse to learn from runs of which no prompt could ask for anything."""
    if metric.name in unmoved_metrics(store):
        raise StoreError(f"{store.folder}: {unmoved(metric.name, ranges.seen()[0])}")
    if math.isclose(*ranges.attainable(), rel_tol=1e-6):  # two means, of float64 and of float32
        raise StoreError(f"{store.folder}: the {metric.name} of no run gets better than at its start; {REMEDY}")


def unmoved_metrics(store: CheckpointStore) -> dict[str, float]:
    """Metrics that are the same in all checkpoints, and their value."""
    return {name: float(values[0]) for name, values in store.metrics.items() if len(values) and np.ptp(values) == 0}


def unmoved(name: str, value: float) -> str:
    """A sentence about a metric that never moves, and what can be done."""
    return f"the {name} is {value:g} in every checkpoint, so no prompt could ask for another; {REMEDY}"


def stored_facts(store: CheckpointStore, metric: Metric) -> TrainingFacts:
    """The same without a task: the quality of the test runs is what was stored with them.

    Raises:
        ValueError: the dataset has no such metric.
    """
    if metric.name not in store.metrics:
        raise ValueError(f"{store.folder} has no metric {metric.name!r}; it has {sorted(store.metrics)}")
    finals = store.final_rows("test")
    if not len(finals):
        finals = store.final_rows("train")
    names = [name for name in store.metrics if not name.startswith("train_")]
    means = {f"test_{name}": float(store.metrics[name][finals].mean()) for name in names}
    return replace(stored_ranges(store, metric), trained_runs=TrainedRuns(means, len(finals)))


def stored_ranges(store: CheckpointStore, metric: Metric, max_runs: int | None = None) -> TrainingFacts:
    """Ranges of a metric over the first runs of the train split, their number, and how they were made."""
    runs, values = store.some_runs_of("train")[:max_runs], store.metrics[metric.name]
    rows = row_numbers(runs)
    bests = [metric.best(torch.from_numpy(values[row_numbers([run])])).item() for run in runs]
    return TrainingFacts(
        prompt_range=(float(values[rows].min()), float(values[rows].max())),
        attainable_range=(float(np.mean(bests)), float(np.mean([values[run.first_row] for run in runs]))),
        dataset=DatasetFacts(len(runs), len(rows), store.header.source),
    )


def row_numbers(runs: list[RunRecord]) -> np.ndarray[Any, Any]:
    """All rows of some runs."""
    return np.concatenate([np.arange(r.first_row, r.first_row + r.num_checkpoints) for r in runs])
