"""From a folder of state dicts and a table of their metrics (CSV) to a dataset.

    file,run,step,loss,error
    seed0/init.pt,seed0,0,2.31,90.2
    seed0/step100.safetensors,seed0,100,0.42,11.0

`file` is a path in the folder; `run` is any name; further columns that are no metrics of the task are left alone. What
else a table may look like is in `csv_table`.
C = checkpoints of a run, P = parameters per network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from checkpoints_dataset.csv_table import CheckpointRow, read_table
from checkpoints_dataset.format import DatasetHeader, RunRecord
from checkpoints_dataset.store import CheckpointStore
from checkpoints_dataset.writer import DatasetWriter
from g_pt.files.folder_lock import folder_lock
from g_pt.networks.network_files import read_network
from g_pt.networks.parameters import ParameterLayout
from g_pt.tasks.base import Task

SHARD_BYTES = 64 << 20


def import_folder(
    folder: Path | str,
    table: Path | str,
    out: Path | str,
    task: Task,
    *,
    metrics: Sequence[str] | None = None,
    dtype: str = "float32",
    progress: Callable[[int], object] = lambda files: None,
) -> CheckpointStore:
    """Make a dataset of the files that a table names; one that was interrupted continues.

    Runs are numbered as they first appear; of every 20, the 19th is for validation and the 20th for test.

    Args:
        folder: of the .safetensors, .pt and .pth files; pickles are read without running code.
        table: CSV with the columns `file`, `run`, `step`, and the metrics on the validation split.
        out: folder of the dataset.
        task: whose networks these are.
        metrics: of the task that the table has; all of them where not given.
        dtype: of the parameters on disk, float32 or float16.
        progress: called with the number of files read since the last call.

    Raises:
        ValueError: the table lacks columns or holds what is no number, a file is of another architecture or holds NaN,
            a step comes twice; the message names the line or the file.
        OSError: the table or a file is missing.
    """
    chosen = {name: task.metric(name) for name in (metrics or task.metrics)}
    runs = grouped(read_table(Path(table), Path(folder), chosen))
    check_precision(dtype)
    shards = cut(runs, task.layout.num_params)
    header = DatasetHeader(
        task.name, task.layout, chosen, len(shards), dtype, {"kind": "folder", "runs": len(runs), "shards": len(shards)}
    )
    with folder_lock(out, "import"):
        writer = DatasetWriter(out, header)
        for index, names in enumerate(shards):
            if writer.is_finished(index):
                progress(sum(len(runs[name]) for name in names))
            else:
                first = sum(len(earlier) for earlier in shards[:index])
                numbered = {first + i: (name, runs[name]) for i, name in enumerate(names)}
                write_shard(writer, index, numbered, task.layout, progress)
    return CheckpointStore(out, verify=False)


def check_precision(dtype: str) -> None:
    """Refuse other dtypes before anything is read."""
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be float32 or float16, got {dtype!r}")


def grouped(rows: Sequence[CheckpointRow]) -> dict[str, list[CheckpointRow]]:
    """The checkpoints of each run in the order of their steps; runs as they first appear."""
    runs: dict[str, list[CheckpointRow]] = {}
    for row in rows:
        runs.setdefault(row.run, []).append(row)
    for name, checkpoints in runs.items():
        checkpoints.sort(key=lambda row: row.step)
        for a, b in pairwise(checkpoints):
            if a.step == b.step:
                raise ValueError(f"run {name!r} has step {a.step} twice, in lines {a.line} and {b.line} of the table")
    return runs


def cut(runs: Mapping[str, Sequence[CheckpointRow]], num_params: int) -> list[list[str]]:
    """Names of the runs of each shard, each of at most `SHARD_BYTES` but at least one run."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, checkpoints in runs.items():
        added = 4 * num_params * len(checkpoints)
        if shards[-1] and size + added > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += added
    return shards


def write_shard(
    writer: DatasetWriter,
    index: int,
    runs: Mapping[int, tuple[str, Sequence[CheckpointRow]]],
    layout: ParameterLayout,
    progress: Callable[[int], object],
) -> None:
    """Read the files of some runs, numbered, and write them."""
    records: list[RunRecord] = []
    params: list[Tensor] = []
    rows: list[CheckpointRow] = []
    for run, (name, checkpoints) in runs.items():
        records.append(RunRecord(run, len(rows), len(checkpoints), {"name": name}))
        for row in checkpoints:
            params.append(read_network(row.path, layout).to(getattr(torch, writer.header.dtype)))
            if not params[-1].isfinite().all():
                raise ValueError(f"{row.path} holds numbers too large for {writer.header.dtype}; use float32")
            rows.append(row)
            progress(1)
    writer.write_rows(
        index,
        torch.stack(params),
        np.array([row.step for row in rows], dtype=np.int64),
        {name: np.array([row.metrics[name] for row in rows], dtype=np.float32) for name in writer.header.metrics},
        records,
    )
