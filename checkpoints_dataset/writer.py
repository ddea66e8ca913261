"""Writing checkpoint datasets shard by shard, so that a kill loses at most the shard at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.format import (
    HEADER_FILE,
    OWN_FILES,
    PARAMS,
    RUN,
    STEP,
    DatasetHeader,
    RunRecord,
    StoreError,
    shard_name,
)
from g_pt.files.atomic import atomic_path, is_leftover, read_json, write_json
from g_pt.files.atomic import fingerprint as fingerprint
from g_pt.files.folder_lock import LOCK_FILE
from g_pt.files.tensor import write_tensors

# what is in a folder without being anybody's work: our lock, and what file managers leave
LITTER = {LOCK_FILE, ".DS_Store", "Thumbs.db", "desktop.ini"}


class DatasetWriter:
    """Adds finished shards to a folder; a folder of the same header is continued."""

    def __init__(self, folder: Path | str, header: DatasetHeader, *, clean: bool = True) -> None:
        """Create or continue a dataset.

        Args:
            folder: of the dataset.
            header: what all its shards share.
            clean: remove what processes that are dead by now have left half-written; not for processes on several
                hosts that share the work, since those of another host look dead.

        Raises:
            StoreError: the folder holds a dataset made with other settings, or other files.
        """
        self.folder, self.header = Path(folder), header
        path = self.folder / HEADER_FILE
        found = [f for f in self.folder.iterdir() if f.name not in LITTER] if self.folder.is_dir() else []
        leftovers = [file for file in found if is_leftover(file, OWN_FILES.fullmatch)]
        if path.exists():
            check_same(path, with_current_settings(read_json(path)), header.to_json())
        elif len(found) > len(leftovers):
            raise StoreError(f"{self.folder} is neither empty nor a checkpoint dataset; name another folder")
        else:
            write_json(path, header.to_json())
        for leftover in leftovers if clean else ():
            leftover.unlink()

    def is_finished(self, index: int) -> bool:
        """Whether a shard has been written whole."""
        return (self.folder / f"{shard_name(index)}.json").exists()

    def write_shard(
        self,
        index: int,
        params: Tensor,
        steps: Sequence[int],
        metrics: Mapping[str, Tensor],
        runs: Mapping[int, Mapping[str, Any]],
        *,
        left_out: Mapping[int, str] | None = None,
        arrays: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write one shard durably: R runs of C checkpoints each.

        Args:
            index: of the shard.
            params: (R, C, P), raw.
            steps: (C,) optimizer steps taken before each checkpoint, rising.
            metrics: `{metric: (R, C)}` on the validation split.
            runs: `{run: metadata}` in the order of the rows.
            left_out: `{run: reason}` of runs that were made but are not kept.
            arrays: further tensors (R, C, ...), such as masks.
        """
        num_runs, num_checkpoints = params.shape[:2]
        if len(runs) != num_runs or len(steps) != num_checkpoints:
            raise ValueError(f"{len(runs)} runs x {len(steps)} steps do not fit params {tuple(params.shape)}")
        if set(metrics) != set(self.header.metrics):
            raise ValueError(f"metrics must be {sorted(self.header.metrics)}, got {sorted(metrics)}")
        for name, values in {**metrics, **(arrays or {})}.items():
            if values.shape[:2] != params.shape[:2]:
                raise ValueError(
                    f"{name} must start with {num_runs} runs x {num_checkpoints} checkpoints, got {tuple(values.shape)}"
                )
        records = [
            RunRecord(run, row * num_checkpoints, num_checkpoints, dict(metadata))
            for row, (run, metadata) in enumerate(runs.items())
        ]
        self.write_rows(
            index,
            params.flatten(0, 1),
            np.tile(np.asarray(steps, dtype=np.int64), num_runs),
            {name: values.float().flatten().numpy() for name, values in metrics.items()},
            records,
            left_out=left_out,
            arrays={name: values.flatten(0, 1) for name, values in (arrays or {}).items()},
        )

    def write_rows(
        self,
        index: int,
        params: Tensor,
        steps: np.ndarray[Any, Any],
        metrics: Mapping[str, np.ndarray[Any, Any]],
        records: Sequence[RunRecord],
        *,
        left_out: Mapping[int, str] | None = None,
        arrays: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write one shard durably: runs that need not have equally many checkpoints, nor equal steps.

        Args:
            index: of the shard.
            params: (rows, P), raw.
            steps: (rows,) int64, optimizer steps taken before each checkpoint, rising in each run.
            metrics: `{metric: (rows,)}`, float32 or, where they came so, float64.
            records: of the runs, in the order of the rows.
            left_out: `{run: reason}` of runs that were made but are not kept.
            arrays: further tensors (rows, ...).
        """
        tensors = {PARAMS: params.to(getattr(torch, self.header.dtype)), **(arrays or {})}
        counts = [record.num_checkpoints for record in records]
        if not sum(counts) == len(params) == len(steps):
            raise ValueError(f"runs of {sum(counts)} checkpoints do not fit {len(params)} rows and {len(steps)} steps")
        table = pa.table(
            {
                RUN: np.repeat(np.array([record.run for record in records], dtype=np.int64), counts),
                STEP: steps,
                **metrics,
            }
        )
        name = shard_name(index)
        write_tensors(self.folder / f"{name}.safetensors", {name: t.contiguous() for name, t in tensors.items()})
        with atomic_path(self.folder / f"{name}.arrow") as path, pa.ipc.new_file(path, table.schema) as sink:
            sink.write_table(table)
        write_json(
            self.folder / f"{name}.json",
            {
                "files": {file: fingerprint(self.folder / file) for file in (f"{name}.safetensors", f"{name}.arrow")},
                "left_out": {str(run): reason for run, reason in (left_out or {}).items()},
                "runs": [record.to_json() for record in records],
            },
        )


def with_current_settings(header: Any) -> Any:
    """The content of a dataset.json with the settings of a harvest as they are written now."""
    source = header.get("source") if isinstance(header, dict) else None
    if not isinstance(source, dict) or source.get("kind") != "harvest":
        return header
    return header | {"source": HarvestConfig.current_settings(source)}


def check_same(path: Path, found: Any, wanted: dict[str, Any]) -> None:
    """Refuse to continue a dataset made with other settings; the error names the first that differs."""
    if not isinstance(found, dict):
        raise StoreError(f"{path} must be a JSON object, got a {type(found).__name__}: altered")
    for key in wanted:
        old, new = found.get(key), wanted[key]
        if old == new:
            continue
        while isinstance(old, dict) and isinstance(new, dict):
            key, old, new = next(
                (f"{key}.{k}", old.get(k), new.get(k)) for k in {**old, **new} if old.get(k) != new.get(k)
            )
        raise StoreError(
            f"{path} was made with {key} = {old!r}, now it is {new!r}; use the same settings to continue it, "
            "or another folder"
        )
