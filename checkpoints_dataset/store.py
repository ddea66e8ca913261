"""Reading checkpoint datasets: memory-mapped rows of parameters and a table of metrics.

P = parameters per network, rows = checkpoints of all runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from checkpoints_dataset.format import (
    HEADER_FILE,
    PARAMS,
    RULES,
    RUN,
    STEP,
    DatasetHeader,
    Manifest,
    RunRecord,
    ShardFile,
    StoreError,
    shard_name,
    split_of,
)
from checkpoints_dataset.mapped_rows import MappedRows, map_safetensors
from checkpoints_dataset.recording import RECORDED, waiting_runs
from checkpoints_dataset.shard_table import check_rows, check_runs, read_table
from g_pt.files.atomic import fingerprint
from g_pt.files.schema import brief
from g_pt.files.tensor import read_tensor_entries
from g_pt.tasks.base import Split, Task, check_split

REPAIR = "; delete the shard's .json and run the same gpt-harvest again to make the shard anew"
FINISH = "; CheckpointRecorder.close() or `gpt-import recorded FOLDER` brings finished runs in"


class CheckpointStore:
    """A finished checkpoint dataset.

    Attributes:
        header: task, layout, metrics.
        runs: one record per run; `first_row` counts over the whole store.
        left_out: `{run: reason}` of the runs that were not kept.
        run, step: (rows,) int64.
        metrics: `{metric: (rows,) float32}`, on the validation split.
    """

    def __init__(self, folder: Path | str, *, verify: bool = True) -> None:
        """Open a dataset.

        Args:
            folder: with dataset.json and the shards.
            verify: read every byte once and compare checksums; without it only sizes are compared.

        Raises:
            StoreError: a file is missing, unfinished, truncated or altered; the message names it.
        """
        self.folder = Path(folder)
        self.header = DatasetHeader.read(self.folder)
        self.runs: list[RunRecord] = []
        self._optimizers: frozenset[str] | None = None  # of the runs of a split; None for all
        self.left_out: dict[int, str] = {}
        tables: list[pa.Table] = []
        self._row_ends: list[int] = []
        num_rows = 0
        for index in range(self.header.num_shards):
            path = self.folder / f"{shard_name(index)}.json"
            manifest = self._manifest(path)
            for suffix in (".safetensors", ".arrow"):
                file = path.with_suffix(suffix)
                check_file(file, manifest.files[file.name], verify=verify)
            left_out = manifest.left_out_runs
            check_runs(path, manifest.runs, left_out, count_rows(path.with_suffix(".safetensors"), self.header))
            tables.append(read_table(path.with_suffix(".arrow"), self.header.metrics))
            check_rows(path.with_suffix(".arrow"), manifest.runs, tables[-1], self.header.metrics)
            self.left_out |= left_out
            self.runs += [replace(record, first_row=record.first_row + num_rows) for record in manifest.runs]
            num_rows += len(tables[-1])
            self._row_ends.append(num_rows)
        check_unique(self.folder, self.runs, self.left_out)
        table = pa.concat_tables(tables)
        self.run, self.step = table[RUN].to_numpy(), table[STEP].to_numpy()
        self.metrics = {name: table[name].to_numpy() for name in self.header.metrics}
        last = self.runs[-1].run if self.runs else -1
        if waiting := sum(number > last for number in waiting_runs(self.folder)):
            warnings.warn(f"{waiting} recorded runs are not in {self.folder} yet{FINISH}", stacklevel=2)

    def _manifest(self, path: Path) -> Manifest:
        if not path.is_file() and self.header.source.get("kind") == RECORDED:
            raise StoreError(f"{path} is missing: no run is finished, or the recording was killed{FINISH}")
        if not path.is_file():
            raise StoreError(
                f"{path} is missing: the harvest is unfinished ({self.header.num_shards} shards are wanted); "
                "run the same gpt-harvest command again, it continues where it stopped"
            )
        manifest = Manifest.read(path)
        if set(manifest.files) != {path.with_suffix(".safetensors").name, path.with_suffix(".arrow").name}:
            raise StoreError(f"{path} must list a .safetensors and an .arrow file, got {brief(sorted(manifest.files))}")
        return manifest

    def check_task(self, task: Task) -> None:
        """Refuse a dataset of another task or of other networks."""
        if self.header.task != task.name or self.header.layout != task.layout:
            raise StoreError(
                f"{self.folder} holds networks of task {self.header.task!r} ({self.header.layout.describe()}), wanted "
                f"are those of {task.name!r} ({task.layout.describe()})"
            )

    def __len__(self) -> int:
        """Number of checkpoints."""
        return len(self.run)

    @cached_property
    def _params(self) -> MappedRows:
        return MappedRows([self.array(PARAMS, index) for index in range(self.header.num_shards)])

    def array(self, name: str, shard: int) -> np.ndarray[Any, Any]:
        """Memory-mapped rows of one array of one shard, (rows of the shard, ...), in the dtype on disk."""
        return map_safetensors(self.folder / f"{shard_name(shard)}.safetensors", name)

    def column(self, name: str, rows: slice) -> np.ndarray[Any, Any]:
        """Neighbouring rows, all of one shard, of any array with one row per checkpoint."""
        shard = int(np.searchsorted(self._row_ends, rows.start, side="right"))
        start = self._row_ends[shard - 1] if shard else 0
        return self.array(name, shard)[rows.start - start : rows.stop - start]

    def params(self, rows: np.ndarray[Any, Any]) -> Tensor:
        """Gather raw parameters of the given rows, in their order: (len(rows), P) float32.

        Memory: the result, and at most 256 MB of mapped pages, however large the dataset is.

        Raises:
            IndexError: there is no such row.
        """
        return self._params.gather(np.asarray(rows, dtype=np.int64))

    def of_rules(self, names: Sequence[str]) -> CheckpointStore:
        """The same dataset whose splits hold the runs of some update rules only; this one where no name is given.

        Its header records the names under `rules` of the source.

        Raises:
            StoreError: no run records this rule as its `optimizer`; the message lists those that runs record.
        """
        recorded = sorted({str(record.metadata.get("optimizer")) for record in self.runs})
        if unknown := [name for name in names if name not in recorded]:
            raise StoreError(f"{self.folder} has no runs of rule {unknown[0]!r}; its runs are of {brief(recorded)}")
        if not names:
            return self
        part = copy(self)
        part._optimizers = frozenset(names)
        part.header = replace(self.header, source=self.header.source | {RULES: sorted(names)})
        return part

    def runs_of(self, split: Split) -> list[RunRecord]:
        """The runs of one split; checkpoints of a run are never in two splits."""
        runs = self._runs_of(split)
        return (
            runs if self._optimizers is None else [r for r in runs if r.metadata.get("optimizer") in self._optimizers]
        )

    def _runs_of(self, split: Split) -> list[RunRecord]:
        check_split(split)
        held_out = self.header.held_out
        if held_out is None:
            return [record for record in self.runs if split_of(record.run) == split]
        first_test = max(0, len(self.runs) - held_out["test"])
        first_validation = max(0, first_test - held_out["validation"])
        ends = {
            "train": (0, first_validation),
            "validation": (first_validation, first_test),
            "test": (first_test, None),
        }
        return self.runs[slice(*ends[split])]

    def some_runs_of(self, split: Split) -> list[RunRecord]:
        """The runs of one split, of which there must be at least one."""
        runs = self.runs_of(split)
        if not runs and self.header.held_out is not None:
            raise StoreError(
                f"{self.folder} has no runs in its {split} split: {len(self.runs)} runs are kept, of which the last "
                f"are held out, {self.header.held_out}; import it again with other numbers (--num-{split}-runs)"
            )
        if not runs:
            raise StoreError(
                f"{self.folder} has no runs in its {split} split: {len(self.runs)} runs are kept and "
                f"{len(self.left_out)} left out; of every 20 runs one is for validation and one for test, so 20 are "
                "the fewest"
            )
        return runs

    def final_rows(self, split: Split) -> np.ndarray[Any, Any]:
        """Row of the last checkpoint of each run of a split."""
        return np.array([r.first_row + r.num_checkpoints - 1 for r in self.runs_of(split)], dtype=np.int64)


def is_finished(folder: Path | str) -> bool:
    """Whether a folder holds a dataset with all of its shards."""
    folder = Path(folder)
    if not (folder / HEADER_FILE).is_file():
        return False
    shards = range(DatasetHeader.read(folder).num_shards)
    return all((folder / f"{shard_name(index)}.json").is_file() for index in shards)


def check_file(path: Path, expected: ShardFile, *, verify: bool) -> None:
    """Compare a file with what its shard's manifest says."""
    if not path.is_file():
        raise StoreError(f"{path} is missing")
    if path.stat().st_size != expected.bytes:
        raise StoreError(
            f"{path} must have {expected.bytes} bytes, got {path.stat().st_size}: truncated or altered{REPAIR}"
        )
    if verify and fingerprint(path)["sha256"] != expected.sha256:
        raise StoreError(f"{path} does not have the checksum it was written with: altered or damaged{REPAIR}")


def count_rows(path: Path, header: DatasetHeader) -> int:
    """Rows of a shard's arrays, from the header of their file, where these are vectors of the dataset's networks."""
    try:
        entries = read_tensor_entries(path)
    except ValueError as error:
        raise StoreError(str(error)) from error
    if PARAMS not in entries:
        raise StoreError(f"{path} has no array {PARAMS!r}; it has {brief(sorted(entries))}")
    wanted, entry = {"float16": "F16", "float32": "F32"}[header.dtype], entries[PARAMS]
    if entry.dtype != wanted or len(entry.shape) != 2 or entry.shape[1] != header.layout.num_params:
        raise StoreError(
            f"{path}: {PARAMS} must be rows of {header.layout.num_params} {wanted}, as {HEADER_FILE} says, got shape "
            f"{brief(entry.shape)} of {entry.dtype}"
        )
    for name, other in entries.items():
        if other.shape[:1] != entry.shape[:1]:
            raise StoreError(f"{path}: array {brief(name)} must have {entry.shape[0]} rows, got {brief(other.shape)}")
    return entry.shape[0]


def check_unique(folder: Path, runs: list[RunRecord], left_out: dict[int, str]) -> None:
    """Refuse a run that is in two shards."""
    numbers = [record.run for record in runs]
    if len(set(numbers)) < len(numbers) or set(numbers) & set(left_out):
        raise StoreError(f"{folder} has a run in two of its shards: altered")
