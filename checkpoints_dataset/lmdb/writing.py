"""From a store of ours to the reference's LMDB folders, one per run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from checkpoints_dataset.format import RunRecord
from checkpoints_dataset.lmdb.names import THEIR_NAMES, folder_names
from checkpoints_dataset.lmdb.reading import reference_keys
from checkpoints_dataset.lmdb.runs import ARCHITECTURE, DONE, RUNS, import_lmdb
from checkpoints_dataset.store import CheckpointStore
from g_pt.files.atomic import atomic_folder, read_json
from g_pt.files.folder_lock import folder_lock
from g_pt.files.schema import brief

PAGE = 4096


def export_runs(
    store: CheckpointStore, out: Path | str, *, progress: Callable[[int], object] = lambda runs: None
) -> int:
    """Write every run as a folder that the reference reads; returns how many were written.

    A folder appears when it is whole; one that is there already is kept, so that an interrupted export continues.
    Test runs are the last by name in the reference: runs keep the names they were imported with, as far as these are
    plain (see `folder_names`), or get their number.

    Raises:
        ValueError: `out` holds another run under a name, or `lmdb` is not installed.
        OSError: the disk is full, or `out` is not to be written to.
    """
    lmdb, written = import_lmdb(), 0
    own = {record.run: str(record.metadata.get("name", f"{record.run:06d}")) for record in store.runs}
    names = folder_names(own)
    with folder_lock(out, "export"):
        for record in store.runs:
            folder = Path(out) / names[record.run]
            keys = reference_keys(store, record, folder.name)
            if folder.exists():
                check_exported(folder, keys)
            else:
                with atomic_folder(folder, lambda found: check_exported(found, [])) as unfinished:
                    write_run(lmdb, store, record, keys, unfinished)
                written += 1
            progress(1)
    return written


def check_exported(folder: Path, keys: list[str]) -> None:
    """Refuse a folder that does not hold a run with these checkpoints."""
    listing = read_json(folder / RUNS) if (folder / DONE).is_file() else None
    checkpoints = listing.get("checkpoints") if isinstance(listing, dict) else None
    if not isinstance(checkpoints, dict) or sorted(checkpoints) != sorted(keys):
        raise ValueError(f"{folder} exists and does not hold this run: it will not be replaced; name another folder")


def write_run(lmdb: Any, store: CheckpointStore, record: RunRecord, keys: list[str], folder: Path) -> None:
    """Write the three files of one run into a folder."""
    rows = np.arange(record.first_row, record.first_row + record.num_checkpoints)
    params = store.params(rows)  # (C, P) float32
    if keys != sorted(set(keys)):
        raise ValueError(
            f"run {record.run}: keys must be sorted as text, {brief(keys)} are not; the reference reads them so"
        )
    metrics = {THEIR_NAMES.get(n, n): v[rows].astype(np.float64).tolist() for n, v in store.metrics.items()}
    records = dict(run_records(keys, params, store.header.layout.sizes, metrics.get("train_ret")))
    size = sum(PAGE + len(value) for value in records.values())
    try:
        with (
            lmdb.open(str(folder), map_size=2 * size + (1 << 20), lock=False) as environment,
            environment.begin(write=True) as transaction,
        ):
            for key, value in records.items():
                transaction.put(key.encode(), value)
    except lmdb.BadValsizeError as error:
        raise ValueError(f"run {record.run}: its keys are longer than LMDB takes, {brief(keys)}") from error
    except lmdb.Error as error:  # what LMDB makes of a full disk
        raise OSError(f"{folder.parent} cannot be written to: {error}") from error
    checkpoints = {
        key: dict(zip(metrics, values, strict=True)) for key, *values in zip(keys, *metrics.values(), strict=True)
    }
    listing = {"checkpoints": checkpoints, "metadata": run_metadata(metrics, params)}
    (folder / RUNS).write_text(json.dumps(listing, indent=2, sort_keys=True))
    (folder / DONE).touch()


def run_records(
    keys: list[str], params: Tensor, sizes: tuple[int, ...], returns: list[float] | None
) -> list[tuple[str, bytes]]:
    """Keys and bytes of a run's records: vectors, sizes of tensors and, for policies, returns; all float32."""
    architecture = np.array(sizes, dtype="<f4").tobytes()
    found = []
    for number, (key, row) in enumerate(zip(keys, params, strict=True)):
        found += [(key, row.numpy().astype("<f4").tobytes()), (key + ARCHITECTURE, architecture)]
        if returns is not None:
            found.append((f"{key}_train_ret", np.array([returns[number]], dtype="<f4").tobytes()))
    return found


def run_metadata(metrics: dict[str, list[float]], params: Tensor) -> dict[str, Any]:
    """Write the reference's facts of a run: its metrics over time, the best of them, the range of its parameters."""
    metadata: dict[str, Any] = {name: v for name, v in metrics.items() if not name.startswith("avg_train")}
    best = {"avg_test_loss": min, "avg_test_err": min, "train_ret": max}
    names = {name: f"optimal_{name.removeprefix('avg_')}" for name in best}
    metadata |= {names[name]: pick(metrics[name]) for name, pick in best.items() if name in metrics}
    return metadata | {"min_parameter_val": params.min().item(), "max_parameter_val": params.max().item()}
