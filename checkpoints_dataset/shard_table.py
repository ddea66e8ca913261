"""The table of a shard: an Arrow file whose rows are counted and checked before anything relies on them.

rows = checkpoints.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from checkpoints_dataset.format import RUN, STEP, RunRecord, StoreError
from g_pt.files.atomic import check_regular
from g_pt.files.schema import brief, one_line
from g_pt.networks.metrics import LOWEST, Metric

MAGIC = b"ARROW1\0\0"
MESSAGE_HEADER, BATCH_COMPRESSION = 2, 3  # places of fields in Arrow's Message and RecordBatch
FLOATS = (pa.float32(), pa.float64())


def read_table(path: Path, metrics: Iterable[str]) -> pa.Table:
    """Map a table of run, step and metrics; nothing is unpacked, so that it has no more bytes than its file.

    Raises:
        StoreError: the file is damaged or compressed, or lacks a column, or has one of another type or with holes.
    """
    check_regular(path)
    try:
        with pa.memory_map(str(path)) as source:
            if source.read(len(MAGIC)) != MAGIC:
                raise StoreError(f"{path} is no Arrow file: damaged")
            for message in pa.ipc.MessageReader.open_stream(source):
                if message.type == "record batch" and is_compressed(message.metadata.to_pybytes()):
                    raise StoreError(f"{path} is compressed, which no table of a dataset is: altered")
            source.seek(len(MAGIC))
            reader = pa.ipc.open_stream(source)
            check_columns(path, reader.schema, {RUN: None, STEP: None, **dict.fromkeys(metrics, FLOATS)})
            table = reader.read_all().select([RUN, STEP, *metrics])
        table.validate(full=True)
    except (pa.ArrowException, OSError, struct.error) as error:
        raise StoreError(f"{path} cannot be read as a table, damaged: {one_line(str(error), 120)}") from error
    if holes := [name for name in table.column_names if table[name].null_count]:
        raise StoreError(f"{path} has empty cells in column {brief(holes[0])}")
    return table


def check_columns(path: Path, schema: Any, wanted: Mapping[str, tuple[Any, ...] | None]) -> None:
    """Refuse columns that are missing, twice, or of other types; None stands for int64."""
    for name, kinds in wanted.items():
        if schema.names.count(name) != 1:
            raise StoreError(f"{path} must have one column {brief(name)}, it has {brief(schema.names)}")
        got = schema.field(name).type
        if got not in (kinds or (pa.int64(),)):
            raise StoreError(
                f"{path}: column {brief(name)} must be of type {'int64' if kinds is None else 'float'}, got "
                f"{one_line(str(got), 60)}"
            )


def is_compressed(message: bytes) -> bool:
    """Whether the buffers of a record batch are compressed, from its message (a flatbuffer)."""
    batch = field_at(message, int.from_bytes(message[:4], "little"), MESSAGE_HEADER)
    if batch is None:
        raise struct.error("a record batch without a header")
    return field_at(message, batch + struct.unpack_from("<I", message, batch)[0], BATCH_COMPRESSION) is not None


def field_at(buffer: bytes, table: int, index: int) -> int | None:
    """Where a field of a flatbuffer's table is; None where it is not set."""
    fields = table - struct.unpack_from("<i", buffer, table)[0]
    place = 4 + 2 * index
    if place >= struct.unpack_from("<H", buffer, fields)[0]:
        return None
    offset = struct.unpack_from("<H", buffer, fields + place)[0]
    return table + offset if offset else None


def check_runs(path: Path, records: list[RunRecord], left_out: Mapping[int, str], num_rows: int) -> None:
    """Refuse runs of a manifest that come twice, or that are not as many checkpoints as there are rows."""
    counts = [record.num_checkpoints for record in records]
    if sum(counts) != num_rows:  # before anything of that size is made
        raise StoreError(
            f"{path} lists runs of {sum(counts):,} checkpoints, but the shard has {num_rows:,} rows: altered"
        )
    first, runs = 0, set(left_out)
    for record in records:
        if record.first_row != first or record.run in runs:
            raise StoreError(
                f"{path} lists runs that do not fit the rows of {path.with_suffix('.arrow').name}: altered"
            )
        runs.add(record.run)
        first += record.num_checkpoints


def check_rows(path: Path, records: list[RunRecord], table: pa.Table, metrics: Mapping[str, Metric]) -> None:
    """Refuse rows that are not those of the runs, steps that do not rise, and metrics that are no measurements."""
    counts = [record.num_checkpoints for record in records]
    listed = np.repeat(np.array([record.run for record in records], dtype=np.int64), counts)
    runs, steps = table[RUN].to_numpy(), table[STEP].to_numpy()
    if not np.array_equal(listed, runs):
        raise StoreError(f"{path} has rows of other runs than {path.with_suffix('.json').name} lists: altered")
    within = runs[1:] == runs[:-1]
    if (steps < 0).any() or (np.diff(steps)[within] <= 0).any():
        raise StoreError(f"{path} has steps that are negative or do not rise within a run")
    for name, metric in metrics.items():
        values, least = table[name].to_numpy(), LOWEST * metric.scale
        check_values(f"{path}: {brief(name)}", metric, values, runs)
        if metric.transform == "log" and (values < least).any():
            warnings.warn(
                f"{path.parent}: models see the log of {brief(name)}, and values below {least:g} as that",
                stacklevel=2,
            )


def check_values(where: str, metric: Metric, values: np.ndarray[Any, Any], runs: np.ndarray[Any, Any]) -> None:
    """Refuse values that no network can be asked for; the error names the first run that has one."""
    if (bad := ~(np.abs(values) <= np.finfo(np.float32).max)).any():
        raise StoreError(f"{where} is {values[bad][0]} in run {runs[bad][0]}: leave diverged runs out")
    if metric.transform != "identity" and (bad := values < 0).any():
        raise StoreError(
            f"{where} is {values[bad][0]:g} in run {runs[bad][0]}, and a metric that is shown as its "
            f"{metric.transform} cannot be negative: set another transform, or leave the run out"
        )
