"""From the reference's LMDB data sets to a store of ours: resumable, shard by shard, in bounded memory.

C = checkpoints of a run, P = parameters per network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from checkpoints_dataset.format import DatasetHeader, RunRecord
from checkpoints_dataset.lmdb.names import NO_EPOCH, CheckpointPlace, find_place, our_metric, steps_of
from checkpoints_dataset.lmdb.runs import RUNS, BrokenRunError, LmdbRuns, RunListing
from checkpoints_dataset.store import CheckpointStore
from checkpoints_dataset.writer import DatasetWriter
from g_pt.files.folder_lock import folder_lock
from g_pt.files.schema import brief
from g_pt.networks.parameters import ParameterLayout
from g_pt.reference.released import ReferenceData, find_data
from g_pt.tasks.base import Task

SHARD_BYTES = 64 << 20  # of parameters; a conversion holds about three times as much
MAX_ABS_PARAM = 10.0  # the reference leaves out a run with a larger one
EPOCH, ITERATION = "epoch", "iteration"
UNKNOWN_TASK = "unknown"


@dataclass(frozen=True)
class ImportOptions:
    """How a data set is converted.

    Attributes:
        num_test_runs: the last runs that are kept are the test split; the reference's own number where not given, or
            a twentieth where that is more than there are.
        num_validation_runs: of those before them; the reference has none.
        max_abs_param: runs with a larger parameter, or one that is not finite, are left out.
        shard_bytes: of parameters in a shard.
        steps_per_epoch: of a run; the reference's own where not given.
    """

    num_test_runs: int | None = None
    num_validation_runs: int = 0
    max_abs_param: float = MAX_ABS_PARAM
    shard_bytes: int = SHARD_BYTES
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        counts = (self.num_test_runs or 0, self.num_validation_runs)
        if min(counts) < 0 or self.max_abs_param <= 0 or self.shard_bytes < 1 or (self.steps_per_epoch or 1) < 1:
            raise ValueError(f"counts must not be negative, sizes must be positive, got {self}")


@dataclass(frozen=True)
class ImportPlan:
    """Facts that all shards of a conversion share, read off the first readable run.

    Attributes:
        header: of the store.
        runs_per_shard: as many as fit into a shard.
        steps_per_epoch: to count steps over epochs.
        metrics: `{the reference's name: ours}`.
    """

    header: DatasetHeader
    runs_per_shard: int
    steps_per_epoch: int
    metrics: dict[str, str]


def import_runs(
    source: Path | str,
    out: Path | str,
    options: ImportOptions | None = None,
    *,
    task: Task | None = None,
    progress: Callable[[int], object] = lambda runs: None,
) -> CheckpointStore:
    """Convert a folder of runs; a conversion that was interrupted continues. Nothing in `source` is changed.

    Runs that cannot be read or are filtered are left out, with the reason, in `CheckpointStore.left_out`.

    Args:
        source: folder of the runs' folders.
        out: folder of the store.
        options: what is kept and how it is cut.
        task: of the networks; found by their tensors where they are the reference's.
        progress: called with the number of runs done since the last call.

    Raises:
        ValueError: no run can be read, the task does not fit, or `out` holds something else.
    """
    options = options or ImportOptions()
    with folder_lock(out, "import"), LmdbRuns(source) as runs:
        plan = make_plan(runs, options, task)
        writer = DatasetWriter(out, plan.header)
        for index in range(plan.header.num_shards):
            first = index * plan.runs_per_shard
            names = runs.names[first : first + plan.runs_per_shard]
            if writer.is_finished(index):
                progress(len(names))
            else:
                write_shard(writer, index, runs, dict(enumerate(names, start=first)), plan, options, progress)
    return CheckpointStore(out, verify=False)


def make_plan(runs: LmdbRuns, options: ImportOptions, task: Task | None) -> ImportPlan:
    """Read off the first readable run what the header says; the same source gives the same plan.

    Raises:
        ValueError: no run can be read, or the task's networks are others; the error has the first reason.
    """
    reasons = []
    for name in runs.names:
        try:
            listing = runs.listing(name)
            num_checkpoints, num_params = runs.params(listing).shape
            sizes = runs.tensor_sizes(listing, num_params)
            break
        except BrokenRunError as error:
            reasons.append(str(error))
    else:
        raise ValueError(f"none of the {len(runs.names)} runs of {runs.folder} can be read; {reasons[0]}")
    data = find_data(num_params=num_params, tensor_sizes=sizes)
    task_name, layout = find_layout(task, data, num_params, sizes)
    runs_per_shard = max(1, options.shard_bytes // (4 * num_params * num_checkpoints))
    num_test = options.num_test_runs
    if num_test is None:
        num_test = data.num_test_runs if data is not None else len(runs.names)
        if num_test >= len(runs.names):
            num_test = len(runs.names) // 20
    header = DatasetHeader(
        task=task_name,
        layout=layout,
        metrics={metric.name: metric for metric in map(our_metric, listing.metrics)},
        num_shards=-(-len(runs.names) // runs_per_shard),
        dtype="float32",
        source={
            "kind": "reference",
            "num_runs": len(runs.names),
            "max_abs_param": options.max_abs_param,
            "runs_per_shard": runs_per_shard,
        },
        held_out={"validation": options.num_validation_runs, "test": num_test},
    )
    known_steps = None if data is None else data.steps_per_epoch
    return ImportPlan(
        header,
        runs_per_shard,
        options.steps_per_epoch or known_steps or 1,
        {theirs: our_metric(theirs).name for theirs in listing.metrics},
    )


def find_layout(
    task: Task | None, data: ReferenceData | None, num_params: int, sizes: tuple[int, ...] | None
) -> tuple[str, ParameterLayout]:
    """Name of the task and layout of its networks; vectors `tensor0`, `tensor1`, ... where the task is not known."""
    if task is None and data is not None:
        from g_pt.tasks import get_task

        task = get_task(data.task)
    if task is None:
        sizes = sizes or (num_params,)
        return UNKNOWN_TASK, ParameterLayout(
            tuple(f"tensor{i}" for i in range(len(sizes))), tuple((size,) for size in sizes)
        )
    if task.layout.num_params != num_params or sizes not in (None, task.layout.sizes):
        raise ValueError(
            f"task {task.name!r} has networks of {task.layout.describe()}, those of the data set have tensors of "
            f"{sizes or num_params} parameters: name another task"
        )
    return task.name, task.layout


def write_shard(
    writer: DatasetWriter,
    index: int,
    runs: LmdbRuns,
    names: Mapping[int, str],
    plan: ImportPlan,
    options: ImportOptions,
    progress: Callable[[int], object],
) -> None:
    """Read the runs `{number: name}` of a shard, filter them, write them."""
    num_params = plan.header.layout.num_params
    kept: list[tuple[RunRecord, RunListing, Tensor]] = []
    left_out: dict[int, str] = {}
    num_rows = 0
    for number, name in names.items():
        try:
            listing = runs.listing(name)
            check_metrics(listing, plan)
            check_steps(listing, plan.steps_per_epoch)
            params = runs.params(listing, num_params)
            check_params(name, params, options.max_abs_param)
            kept.append((make_record(number, num_rows, listing), listing, params))
            num_rows += len(params)
        except BrokenRunError as error:
            left_out[number] = str(error)
        progress(1)
    places = [list_places(listing) for _, listing, _ in kept]
    empty = torch.empty(0, num_params)
    joined = torch.cat([empty, *(params for *_, params in kept)])
    steps = [steps_of(run, plan.steps_per_epoch) for run in places]
    writer.write_rows(
        index,
        joined,
        np.array([step for run in steps for step in run], dtype=np.int64),
        {
            ours: np.array([value for _, run, _ in kept for value in run.metrics[theirs]], dtype=np.float64)
            for theirs, ours in plan.metrics.items()
        },
        [record for record, *_ in kept],
        left_out=left_out,
        arrays={
            EPOCH: torch.tensor([place.epoch for run in places for place in run], dtype=torch.int32),
            ITERATION: torch.tensor([place.iteration for run in places for place in run], dtype=torch.int32),
        },
    )


def check_metrics(listing: RunListing, plan: ImportPlan) -> None:
    """Refuse a run that lacks a metric which the first one has, or has values that cannot be shown as theirs are."""
    if missing := sorted(set(plan.metrics) - set(listing.metrics)):
        raise BrokenRunError(listing.name, f"its checkpoints lack the metrics {missing}")
    for theirs, ours in plan.metrics.items():
        if plan.header.metrics[ours].transform != "identity" and min(listing.metrics[theirs]) < 0:
            raise BrokenRunError(listing.name, f"its {brief(theirs)} is negative, {min(listing.metrics[theirs]):g}")


def check_steps(listing: RunListing, steps_per_epoch: int) -> None:
    """Refuse a run whose checkpoints are not listed in the order of time."""
    if any(later <= earlier for earlier, later in pairwise(steps_of(list_places(listing), steps_per_epoch))):
        raise BrokenRunError(listing.name, f"its checkpoints are not listed in the order of time in {RUNS}")


def check_params(name: str, params: Tensor, max_abs_param: float) -> None:
    """Refuse a run whose vectors the reference filters."""
    if not params.isfinite().all():
        raise BrokenRunError(name, "a parameter is not finite")
    largest = params.abs().max().item()
    if largest > max_abs_param:
        raise BrokenRunError(name, f"its largest parameter is {largest:.4g}, above {max_abs_param:g}")


def make_record(number: int, first_row: int, listing: RunListing) -> RunRecord:
    """Record of a run: its name, single numbers of its metadata, keys that cannot be made from epoch and step."""
    metadata: dict[str, Any] = {"name": listing.name}
    plain = {key: value for key, value in listing.metadata.items() if isinstance(value, int | float | str)}
    metadata |= {key: value for key, value in plain.items() if key not in ("name", "keys")}  # ours
    if any(find_place(key, listing.name) is None for key in listing.keys):
        metadata["keys"] = list(listing.keys)
    return RunRecord(number, first_row, len(listing.keys), metadata)


def list_places(listing: RunListing) -> list[CheckpointPlace]:
    """When each checkpoint was saved; counted from 0 where the keys do not say."""
    places = [find_place(key, listing.name) for key in listing.keys]
    if any(place is None for place in places):
        return [CheckpointPlace(NO_EPOCH, number) for number in range(len(places))]
    return [place for place in places if place is not None]


def reference_keys(store: CheckpointStore, record: RunRecord, name: str | None = None) -> list[str]:
    """The reference's keys of a run's checkpoints, as they were where the store was imported from it.

    Args:
        store: with the run.
        record: of the run.
        name: of its folder; that of the run where not given.
    """
    name = str(record.metadata.get("name", f"{record.run:06d}")) if name is None else name
    keys = record.metadata.get("keys")
    if isinstance(keys, list) and len(keys) == record.num_checkpoints and all(isinstance(key, str) for key in keys):
        return keys
    rows = slice(record.first_row, record.first_row + record.num_checkpoints)
    if store.header.source.get("kind") == "reference":
        epochs, iterations = store.column(EPOCH, rows), store.column(ITERATION, rows)
        return [CheckpointPlace(int(e), int(i)).key(name) for e, i in zip(epochs, iterations, strict=True)]
    epoch = NO_EPOCH if "return" in store.header.metrics else 0
    return [CheckpointPlace(epoch, int(step)).key(name) for step in store.step[rows]]
