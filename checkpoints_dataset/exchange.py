"""Checkpoint datasets as parquet, which everybody can read: `datasets.load_dataset` needs nothing of this package.

    CONFIGURATION/dataset.json                  header of the dataset
    CONFIGURATION/shard-00000.json              runs, runs left out, further arrays; size and SHA-256 of the files below
    CONFIGURATION/train/shard-00000.parquet     one row per checkpoint of the runs of a split; also validation, test

A configuration is one network layout. Columns are run, step, each metric, `params` as a list of fixed length, and any
other array; values are those of the dataset, bit for bit. Both directions hold one shard in memory.

P = parameters per network, rows = checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from checkpoints_dataset.format import (
    HEADER_FILE,
    PARAMS,
    RUN,
    STEP,
    DatasetHeader,
    Manifest,
    ShardFile,
    StoreError,
    shard_name,
)
from checkpoints_dataset.mapped_rows import NUMPY_DTYPES
from checkpoints_dataset.parquet_pages import check_pages
from checkpoints_dataset.shard_table import check_rows, check_runs
from checkpoints_dataset.store import CheckpointStore
from checkpoints_dataset.writer import DatasetWriter
from g_pt.files.atomic import atomic_folder, atomic_path, fingerprint, write_json
from g_pt.files.folder_lock import folder_lock
from g_pt.files.schema import Between, brief, one_line, read_value
from g_pt.files.tensor import read_tensor_entries
from g_pt.tasks.base import Split

CARD_FILE = "README.md"
SHAPE = Annotated[list[Annotated[int, Between(1, 2**31 - 1)]], Between(0, 64)]
SPLITS: tuple[Split, ...] = get_args(Split)
GROUP_BYTES = 8_000_000  # of a row group: what streaming fetches at once
# Unpacked; a few compressed bytes could claim any size. Parameters are packed to a half at best, masks to a tenth.
MAX_SHARD_BYTES, MAX_RATIO, FREE_BYTES = 4_000_000_000, 16, 64_000_000


def export_parquet(
    store: CheckpointStore, folder: Path, *, readme: str = "", progress: Callable[[int], object] = lambda shards: None
) -> None:
    """Write a dataset as one configuration into an empty or new folder, which is there when it is whole.

    Args:
        store: the dataset.
        folder: of the configuration.
        readme: card of the configuration, beside its files.
        progress: called with the number of shards done since the last call.

    Raises:
        StoreError: the folder is not empty, or a further array has the name of a column.
    """
    with atomic_folder(folder, check_empty) as temporary:
        write_configuration(store, temporary, progress)
        if readme:
            (temporary / CARD_FILE).write_text(readme, encoding="utf-8")


def check_empty(folder: Path) -> None:
    """Refuse what is no empty folder."""
    if not folder.is_dir() or any(folder.iterdir()):
        raise StoreError(f"{folder} is not an empty folder; name another one")


def write_configuration(store: CheckpointStore, folder: Path, progress: Callable[[int], object]) -> None:
    """Write the files of a configuration, shard by shard."""
    split_of_run = {record.run: split for split in SPLITS for record in store.runs_of(split)}
    first_row = 0
    for index in range(store.header.num_shards):
        manifest = Manifest.read(store.folder / f"{shard_name(index)}.json")
        arrays = array_types(store, index)
        num_rows = sum(record.num_checkpoints for record in manifest.runs)
        table = shard_table(store, index, slice(first_row, first_row + num_rows), list(arrays))
        splits = np.array([split_of_run[run] for run in table[RUN].to_pylist()], dtype=object)
        files = {}
        for split in SPLITS:
            rows = np.flatnonzero(splits == split)
            if len(rows):
                path = folder / split / f"{shard_name(index)}.parquet"
                write_parquet(path, table.take(pa.array(rows)), store.header.layout.num_params)
                files[f"{split}/{path.name}"] = {"rows": len(rows), **fingerprint(path)}
        kept = {"runs": [run.to_json() for run in manifest.runs], "left_out": manifest.left_out}
        kept |= {"arrays": arrays, "files": files}
        write_json(folder / f"{shard_name(index)}.json", kept)
        first_row += num_rows
        progress(1)
    write_json(folder / HEADER_FILE, store.header.to_json())


def array_types(store: CheckpointStore, index: int) -> dict[str, dict[str, Any]]:
    """Type and shape of a row of every array besides the parameters: `{name: {"dtype": F32, "shape": [...]}}`."""
    entries = read_tensor_entries(store.folder / f"{shard_name(index)}.safetensors")
    taken = {RUN, STEP, *store.header.metrics} & set(entries)
    if taken:
        raise StoreError(f"{store.folder} has arrays {sorted(taken)}, which are names of columns")
    return {
        name: {"dtype": entry.dtype, "shape": list(entry.shape[1:])}
        for name, entry in entries.items()
        if name != PARAMS
    }


def shard_table(store: CheckpointStore, index: int, rows: slice, arrays: list[str]) -> pa.Table:
    """All columns of a shard, in the order of its rows."""
    columns: dict[str, Any] = {RUN: store.run[rows], STEP: store.step[rows]}
    columns |= {name: values[rows] for name, values in store.metrics.items()}
    columns |= {name: parameter_column(store.array(name, index)) for name in (*arrays, PARAMS)}
    return pa.table(columns)


def parameter_column(values: np.ndarray[Any, Any]) -> pa.Array:
    """(rows, ...) as numbers, or as lists of fixed length."""
    if values.ndim == 1:
        return pa.array(np.asarray(values))
    size = int(np.prod(values.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(values).reshape(-1)), size)


def write_parquet(path: Path, table: pa.Table, num_params: int) -> None:
    """Write rows in groups small enough to be streamed; random floats are not worth a dictionary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [name for name in table.column_names if name not in (RUN, STEP)]
    with atomic_path(path) as temporary:
        pq.write_table(
            table,
            temporary,
            row_group_size=max(1, GROUP_BYTES // (4 * num_params)),
            compression="zstd",
            use_dictionary=[name for name in table.column_names if name not in plain],
        )


def import_parquet(
    folder: Path, out: Path, *, progress: Callable[[int], object] = lambda shards: None
) -> CheckpointStore:
    """Turn a configuration back into a dataset; one that was interrupted continues.

    Args:
        folder: of the configuration, as `export_parquet` wrote it.
        out: folder of the dataset.
        progress: called with the number of shards done since the last call.

    Raises:
        StoreError: a file is missing, damaged, or does not hold what the others say; the message names it.
    """
    header = DatasetHeader.read(folder)
    with folder_lock(out, "import"):
        writer = DatasetWriter(out, header)
        for index in range(header.num_shards):
            if not writer.is_finished(index):
                import_shard(folder, index, header, writer)
            progress(1)
    return CheckpointStore(out)


def import_shard(folder: Path, index: int, header: DatasetHeader, writer: DatasetWriter) -> None:
    """Read one shard's files, put their rows into the order of its runs, and write it."""
    path = folder / f"{shard_name(index)}.json"
    if not path.exists():
        raise StoreError(f"{path} is missing: the dataset is incomplete")
    manifest = Manifest.read(path)
    records, counts = manifest.runs, [record.num_checkpoints for record in manifest.runs]
    check_runs(path, records, manifest.left_out_runs, sum(entry.rows or 0 for entry in manifest.files.values()))
    schema = expected_schema(path, header, manifest.arrays)
    tables = [read_parquet(folder, path, name, manifest.files[name], schema) for name in sorted(manifest.files)]
    table = joined(path, tables, schema)
    wanted = np.repeat(np.array([record.run for record in records], dtype=np.int64), counts)
    # runs lie together in each file, in the order of the shard; a stable sort by that order puts them back
    place = {record.run: number for number, record in enumerate(records)}
    if set(table[RUN].to_pylist()) - set(place):
        raise StoreError(f"{path} does not list all runs of its files")
    order = np.argsort([place[run] for run in table[RUN].to_pylist()], kind="stable")
    table = table.take(pa.array(order, type=pa.int64()))
    if not np.array_equal(table[RUN].to_numpy(), wanted):
        raise StoreError(f"{path} lists runs that do not fit the rows of its files: altered")
    check_rows(path.with_suffix(".parquet"), records, table, header.metrics)
    tensors = {name: torch.from_numpy(metric_column(table, name, entry)) for name, entry in manifest.arrays.items()}
    width = {"dtype": {"float16": "F16", "float32": "F32"}[header.dtype], "shape": [header.layout.num_params]}
    writer.write_rows(
        index,
        torch.from_numpy(metric_column(table, PARAMS, width)),
        table[STEP].to_numpy(),
        {name: table[name].to_numpy() for name in header.metrics},
        records,
        left_out=manifest.left_out_runs,
        arrays=tensors,
    )


def joined(path: Path, tables: list[pa.Table], schema: Mapping[str, Any]) -> pa.Table:
    """The rows of a shard's files; a shard all of whose runs were left out has none."""
    if not tables:
        return pa.table({name: pa.array([], kind or pa.float32()) for name, kind in schema.items()})
    try:
        return pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise StoreError(f"the files of {path} have columns of different types: {one_line(str(error), 120)}") from error


def expected_schema(path: Path, header: DatasetHeader, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Columns and their types, metrics aside, which may be float32 or float64."""
    values = pa.float16() if header.dtype == "float16" else pa.float32()
    schema: dict[str, Any] = {RUN: pa.int64(), STEP: pa.int64(), **dict.fromkeys(header.metrics)}
    if taken := sorted({*schema, PARAMS} & set(arrays)):
        raise StoreError(f"{path} has an array {brief(taken[0])}, which is the name of a column")
    for name, entry in arrays.items():
        try:
            element = pa.from_numpy_dtype(NUMPY_DTYPES[entry["dtype"]])
            shape = read_value(SHAPE, entry["shape"], "shape")
            schema[name] = pa.list_(element, math.prod(shape)) if shape else element
        except (KeyError, TypeError, ValueError, OverflowError, pa.ArrowException) as error:
            raise StoreError(f"{path} has a wrong entry for array {brief(name)}: {brief(str(error), 100)}") from error
    if header.layout.num_params * 4 > MAX_SHARD_BYTES:
        raise StoreError(f"{path.parent} has networks of {header.layout.num_params:,} parameters: too many for a file")
    return schema | {PARAMS: pa.list_(values, header.layout.num_params)}


def read_parquet(folder: Path, manifest: Path, name: str, entry: ShardFile, schema: Mapping[str, Any]) -> pa.Table:
    """Read one parquet file after its size, checksum, types and unpacked size were found to be as listed."""
    split, _, file = name.partition("/")
    if split not in SPLITS or file != f"{manifest.stem}.parquet":
        raise StoreError(f"{manifest} must list SPLIT/{manifest.stem}.parquet, got {brief(name)}")
    path = folder / split / file
    if not path.is_file():
        raise StoreError(f"{path} is missing: the dataset is incomplete")
    if fingerprint(path) != {"bytes": entry.bytes, "sha256": entry.sha256}:
        raise StoreError(f"{path} does not have the size and checksum that {manifest.name} says: altered or damaged")
    try:
        parquet = pq.ParquetFile(path)
        check_schema(path, parquet.schema_arrow, schema)
        if parquet.metadata.num_rows != entry.rows:
            raise StoreError(f"{path} must have {entry.rows} rows, got {parquet.metadata.num_rows}")
        check_unpacked(path, parquet.metadata, entry, schema)
        table = parquet.read(columns=list(schema))
    except StoreError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read as parquet: {one_line(str(error), 200)}") from error
    if holes := [column for column in table.column_names if table[column].null_count]:
        raise StoreError(f"{path} has empty cells in column {brief(holes[0])}")
    return table


def check_unpacked(path: Path, metadata: Any, entry: ShardFile, schema: Mapping[str, Any]) -> None:
    """Refuse a file that would unpack to more than parameters ever do, or to more numbers than its rows have."""
    widths = {name: kind.list_size if pa.types.is_fixed_size_list(kind) else 1 for name, kind in schema.items() if kind}
    row_bytes = sum(8 if kind is None else item_bytes(kind) for kind in schema.values())
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    columns = [
        (name, group.num_rows, column)
        for group in groups
        for column in (group.column(i) for i in range(group.num_columns))
        if (name := column.path_in_schema.split(".")[0]) in schema
    ]
    claimed = sum(column.total_uncompressed_size for *_, column in columns)
    unpacked = max(claimed, metadata.num_rows * row_bytes)
    most = min(MAX_SHARD_BYTES, max(FREE_BYTES, MAX_RATIO * entry.bytes))
    if unpacked > most:
        raise StoreError(f"{path} would unpack {entry.bytes:,} bytes to {unpacked:,}; at most {most:,} are read")
    for name, num_rows, column in columns:
        wanted = num_rows * widths.get(name, 1)
        if column.num_values != wanted:
            raise StoreError(
                f"{path}: column {brief(column.path_in_schema)} must have {wanted:,} numbers in "
                f"{num_rows:,} rows, got {column.num_values:,}"
            )
    check_pages(path, [column for *_, column in columns])


def check_schema(path: Path, found: Any, wanted: Mapping[str, Any]) -> None:
    """Refuse columns that are missing or of other types."""
    for name, kind in wanted.items():
        if name not in found.names:
            raise StoreError(f"{path} has no column {brief(name)}")
        got = found.field(name).type
        fits = got in (pa.float32(), pa.float64()) if kind is None else same_type(got, kind)
        if not fits:
            raise StoreError(
                f"{path}: column {brief(name)} must be of type {kind or 'float'}, got {one_line(str(got), 60)}"
            )


def item_bytes(kind: Any) -> int:
    """Bytes of a value of a type."""
    size, element = (kind.list_size, kind.value_type) if pa.types.is_fixed_size_list(kind) else (1, kind)
    return size * max(1, element.bit_width // 8)


def same_type(got: Any, wanted: Any) -> bool:
    """Whether two types agree; the name of a list's items is not part of it."""
    if pa.types.is_fixed_size_list(wanted):
        return pa.types.is_fixed_size_list(got) and (got.list_size, got.value_type) == (
            wanted.list_size,
            wanted.value_type,
        )
    return got == wanted


def metric_column(table: pa.Table, name: str, entry: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """A column as (rows, *shape), writable."""
    column = table[name].combine_chunks()
    values = column.flatten() if entry["shape"] else column
    if column.null_count or values.null_count:
        raise StoreError(f"column {brief(name)} has empty cells")
    flat = values.to_numpy(zero_copy_only=False)
    return np.array(flat, dtype=NUMPY_DTYPES[entry["dtype"]]).reshape(len(table), *entry["shape"])
