"""Datasets that grow by one run at a time, from several processes if need be, and survive a kill at any moment.

    dataset.json, shard-*             as in every dataset; `num_shards` grows
    recorded/run-000123.safetensors   a finished run that is not in a full shard yet: its source of truth

A run's file is there whole or not at all. Shards are made of these files, and a shard that is not full is made anew
from them as more runs come, so that there are never many small shards. C = checkpoints of a run, P = parameters.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from checkpoints_dataset.format import HEADER_FILE, PARAMS, STEP, DatasetHeader, RunRecord, StoreError, shard_name
from checkpoints_dataset.writer import DatasetWriter, check_same
from g_pt.files.atomic import read_json, remove_leftovers, write_json
from g_pt.files.folder_lock import FolderBusyError, folder_lock
from g_pt.files.schema import brief
from g_pt.files.tensor import read_tensor_entries, write_tensors

RECORDED = "recorded"  # folder of the runs' files, and the kind of such a dataset's source
SHARD_BYTES = 64 << 20  # a shard of so many bytes is full
LOCK_SECONDS = 120.0
RUN_FILE = re.compile(r"run-\d{6,12}\.safetensors")


@dataclass(frozen=True)
class RecordedRun:
    """A finished run.

    Attributes:
        params: (C, P), raw, in the dataset's dtype.
        steps: C optimizer steps, rising.
        metrics: `{metric: C values}` on the validation split.
        metadata: what is known about the run; JSON.
    """

    params: Tensor
    steps: list[int]
    metrics: dict[str, list[float]]
    metadata: dict[str, Any] = field(default_factory=dict)


class Recording:
    """A dataset folder to which finished runs are added."""

    def __init__(self, folder: Path | str, header: DatasetHeader) -> None:
        """Create a dataset, or open one that was recorded with the same header but for `num_shards`.

        Raises:
            StoreError: the folder holds other files, or a dataset of other networks, metrics or settings.
        """
        self.folder, self.header = Path(folder), header
        with waiting_lock(self.folder):
            path = self.folder / HEADER_FILE
            if path.exists():
                found = DatasetHeader.read(self.folder)
                if found.layout != header.layout:
                    raise StoreError(
                        f"{self.folder} holds networks of {found.layout.describe()}, not of {header.layout.describe()}"
                    )
                self.header = replace(header, num_shards=found.num_shards)
                check_same(path, read_json(path), self.header.to_json())
            else:
                DatasetWriter(self.folder, header)
            run_folder(self.folder).mkdir(exist_ok=True)
            remove_leftovers(run_folder(self.folder), RUN_FILE.fullmatch)  # of a recorder that was killed

    @property
    def runs_per_shard(self) -> int:
        """A shard of so many runs is full."""
        return int(self.header.source["runs_per_shard"])

    def append(self, run: RecordedRun) -> int:
        """Write a finished run durably and return its number, which it keeps for ever.

        The shard at hand is made anew each time its number of runs has doubled; `pack` does it for the rest.
        """
        with waiting_lock(self.folder):
            last, packed = self._packed()
            waiting = [n for n in waiting_runs(self.folder) if n > last]
            number = max([last, *waiting], default=-1) + 1
            write_run(run_folder(self.folder) / run_name(number), run)
            if len(waiting) + 1 >= max(1, packed):
                self._pack()
        return number

    def pack(self) -> None:
        """Bring all finished runs into shards; nothing happens where they are.

        Raises:
            FileNotFoundError: the folder has been removed meanwhile.
        """
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder} has been removed, with the runs that were recorded in it")
        with waiting_lock(self.folder):
            last, _ = self._packed()
            if any(number > last for number in waiting_runs(self.folder)):
                self._pack()

    def _packed(self) -> tuple[int, int]:
        """Last run that is in a shard, or -1, and how many runs the last shard has if it is not full, else 0."""
        self.header = replace(self.header, num_shards=DatasetHeader.read(self.folder).num_shards)
        for index in range(self.header.num_shards - 1, -1, -1):
            manifest = self._manifest(index)
            if manifest is not None:
                count = 0 if self._is_full(manifest) else len(manifest["runs"])
                return int(manifest["runs"][-1]["run"]), count
        return -1, 0

    def _pack(self) -> None:
        """Make shards of the runs' files, behind the full ones."""
        index, last = self._full_shards()
        paths = []
        for number, path in waiting_runs(self.folder).items():
            if number > last:
                paths.append((number, path))
            else:
                path.unlink()  # its shard was full already; a kill came between
        while paths:
            taken, size = 0, 0
            while taken < min(len(paths), self.runs_per_shard) and size < SHARD_BYTES:
                size += paths[taken][1].stat().st_size
                taken += 1
            self._write_shard(index, {number: read_run(path, self.header) for number, path in paths[:taken]})
            manifest = self._manifest(index)
            if manifest is not None and self._is_full(manifest):
                for _, path in paths[:taken]:
                    path.unlink()
            index, paths = index + 1, paths[taken:]

    def _full_shards(self) -> tuple[int, int]:
        """How many shards are full, and the last run in them, or -1."""
        last = -1
        for index in range(self.header.num_shards):
            manifest = self._manifest(index)
            if manifest is None or not self._is_full(manifest):
                return index, last
            last = int(manifest["runs"][-1]["run"])
        return self.header.num_shards, last

    def _write_shard(self, index: int, runs: dict[int, RecordedRun]) -> None:
        """Write a shard, or write it anew; a kill meanwhile leaves a dataset without it."""
        if 0 < index < self.header.num_shards:
            self._set_num_shards(index)
        (self.folder / f"{shard_name(index)}.json").unlink(missing_ok=True)
        firsts = np.cumsum([0, *(len(run.steps) for run in runs.values())])[:-1].tolist()
        records = [
            RunRecord(number, first, len(run.steps), run.metadata)
            for first, (number, run) in zip(firsts, runs.items(), strict=True)
        ]
        DatasetWriter(self.folder, self.header).write_rows(
            index,
            torch.cat([run.params for run in runs.values()]),
            np.array([step for run in runs.values() for step in run.steps], dtype=np.int64),
            {
                name: np.array([value for run in runs.values() for value in run.metrics[name]], dtype=np.float32)
                for name in self.header.metrics
            },
            records,
        )
        if index >= self.header.num_shards:
            self._set_num_shards(index + 1)

    def _set_num_shards(self, number: int) -> None:
        self.header = replace(self.header, num_shards=number)
        write_json(self.folder / HEADER_FILE, self.header.to_json())

    def _manifest(self, index: int) -> dict[str, Any] | None:
        path = self.folder / f"{shard_name(index)}.json"
        return read_json(path) if path.is_file() else None

    def _is_full(self, manifest: dict[str, Any]) -> bool:
        largest = max(file["bytes"] for file in manifest["files"].values())
        return len(manifest["runs"]) >= self.runs_per_shard or largest >= SHARD_BYTES


def finish_recording(folder: Path | str) -> None:
    """Bring all finished runs of a recording, whose program was killed, into shards.

    Raises:
        StoreError: the folder is no dataset, or one that was not recorded.
    """
    header = DatasetHeader.read(Path(folder))
    if header.source.get("kind") != RECORDED:
        raise StoreError(f"{folder} was not recorded, but made by {header.source.get('kind')!r}: nothing to finish")
    Recording(folder, header).pack()


def run_folder(folder: Path) -> Path:
    """Where the runs' files are."""
    return folder / RECORDED


def run_name(number: int) -> str:
    """`run-000123.safetensors`."""
    return f"run-{number:06d}.safetensors"


def waiting_runs(folder: Path) -> dict[int, Path]:
    """Files of finished runs by number, rising."""
    files = [path for path in run_folder(folder).glob("run-*.safetensors") if RUN_FILE.fullmatch(path.name)]
    return dict(sorted((int(path.stem.removeprefix("run-")), path) for path in files))


def write_run(path: Path, run: RecordedRun) -> None:
    """Write a run's file, whole or not at all."""
    tensors = {PARAMS: run.params.contiguous(), STEP: torch.tensor(run.steps, dtype=torch.int64)}
    tensors |= {f"metric.{name}": torch.tensor(v, dtype=torch.float32) for name, v in run.metrics.items()}
    write_tensors(path, tensors, {"metadata": json.dumps(run.metadata)})


def read_run(path: Path, header: DatasetHeader) -> RecordedRun:
    """Inverse of `write_run`.

    Raises:
        StoreError: the file is cut off, or holds no run of this dataset; the message names it.
    """
    try:
        entries = read_tensor_entries(path)
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
            metadata = json.loads((file.metadata() or {}).get("metadata", "{}"))
        count = len(tensors[STEP])
        wanted = {PARAMS: (count, header.layout.num_params), STEP: (count,)}
        wanted |= {f"metric.{name}": (count,) for name in header.metrics}
        if wrong := [name for name, shape in wanted.items() if entries[name].shape != shape]:
            raise ValueError(f"{brief(wrong[0])} has shape {brief(entries[wrong[0]].shape)}, not {wanted[wrong[0]]}")
        if count < 2 or tensors[STEP].dtype != torch.int64 or (tensors[STEP].diff() <= 0).any():
            raise ValueError(f"{STEP} must be two or more whole numbers that rise")
        if not isinstance(metadata, dict) or not all(t.isfinite().all() for t in tensors.values()):
            raise ValueError("its numbers must be finite, its metadata an object")
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StoreError(f"{path} holds no run of this dataset ({brief(str(error), 200)}): move it away") from error
    metrics = {n.removeprefix("metric."): t.tolist() for n, t in tensors.items() if n.startswith("metric.")}
    return RecordedRun(tensors[PARAMS], tensors[STEP].tolist(), metrics, metadata)


@contextmanager
def waiting_lock(folder: Path) -> Iterator[None]:
    """`folder_lock`, but wait until others are done: each holds it for one run only."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        lock = folder_lock(folder, "recording")
        try:
            lock.__enter__()
        except FolderBusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
            continue
        break
    try:
        yield
    finally:
        lock.__exit__(None, None, None)
