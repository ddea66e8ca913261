"""What a dataset says about its task: scale of the parameters, range of the metric, quality of the runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from checkpoints_dataset.format import RunRecord
from checkpoints_dataset.store import CheckpointStore
from g_pt.model.normalization import NormalizationMode, ParameterNormalizer
from g_pt.tasks.base import Task

STATISTICS_ROWS = 25_000  # as many as the reference estimates its scale from


def fit_normalizer(
    store: CheckpointStore, mode: NormalizationMode, *, max_runs: int | None = None, seed: int = 0
) -> ParameterNormalizer:
    """Fit the normaliser to random checkpoints of the first `max_runs` runs of the train split."""
    rows = rows_of(store.some_runs_of("train")[:max_runs])
    if len(rows) > STATISTICS_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, STATISTICS_ROWS, replace=False))
    return ParameterNormalizer.fit(store.params(rows), store.header.layout, mode)


def training_facts(
    store: CheckpointStore, task: Task, metric_name: str, *, max_runs: int | None = None
) -> dict[str, Any]:
    """What a pipeline keeps about its training data: the first `max_runs` runs of the train split.

    Returns:
        `prompt_range`: lowest and highest metric of any checkpoint of these runs.
        `attainable_range`: mean over these runs of the best metric and of the first, best first.
        `trained_runs`: mean test-split metrics of the last checkpoints of the test runs, and their number.
        `dataset`: number of these runs and of their checkpoints, and how they were made.
    """
    metric = task.metric(metric_name)
    test_runs = store.some_runs_of("test")
    values = store.metrics[metric_name]
    runs = store.some_runs_of("train")[:max_runs]
    bests = [metric.best(torch.from_numpy(values[rows_of([run])])).item() for run in runs]
    rows = rows_of(runs)
    finals = task.evaluate(store.params(store.final_rows("test")), "test")
    return {
        "prompt_range": [float(values[rows].min()), float(values[rows].max())],
        "attainable_range": [float(np.mean(bests)), float(np.mean([values[r.first_row] for r in runs]))],
        "trained_runs": {
            "num_runs": len(test_runs),
            **{f"test_{name}": {"mean": v.mean().item()} for name, v in finals.items()},
        },
        "dataset": {"num_runs": len(runs), "num_checkpoints": len(rows), "source": store.header.source},
    }


def rows_of(runs: list[RunRecord]) -> np.ndarray[Any, Any]:
    """All rows of some runs."""
    return np.concatenate([np.arange(r.first_row, r.first_row + r.num_checkpoints) for r in runs])
