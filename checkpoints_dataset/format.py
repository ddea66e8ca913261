"""The files of a checkpoint dataset on disk, format version 1.

    dataset.json              what all shards share: `DatasetHeader`
    shard-00000.safetensors   `params` (rows, P), and any other array with one row per checkpoint
    shard-00000.arrow         one row per checkpoint: run, step, and the metrics on the validation split
    shard-00000.json          runs with their metadata, runs left out, sizes and SHA-256 of the two files above

`shard-N.json` is written last: a shard without it was never finished and does not count.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from g_pt.files.atomic import read_json
from g_pt.files.schema import Between, Count, OneLine, Whole, brief, read_object
from g_pt.networks.metrics import Metric
from g_pt.networks.parameters import ParameterLayout
from g_pt.tasks.base import Split

FORMAT = "g-pt checkpoint dataset"
VERSION = 1
HEADER_FILE = "dataset.json"
PARAMS = "params"
RUN, STEP = "run", "step"
RULES = "rules"  # in the source of a part of a dataset: whose runs it holds
OWN_FILES = re.compile(r"dataset\.json|shard-\d{5,}\.(?:json|arrow|safetensors)")
RUN_NUMBER = re.compile(r"[0-9]{1,18}")
MAX_SHARDS = 1_000_000
MAX_HEADER_BYTES = 30_000_000
Part = TypeVar("Part")
DTYPES = ("float16", "float32")


Name = Annotated[str, Between(1, 200), OneLine()]


class StoreError(ValueError):
    """A checkpoint dataset is missing, unfinished, damaged or of another format; the message names the file."""


@dataclass(frozen=True)
class DatasetHeader:
    """Header of a dataset: the facts that all its shards share.

    Attributes:
        task: name of the task whose networks these are.
        layout: order of the tensors in each row of `params`.
        metrics: what was measured on the validation split at each checkpoint.
        num_shards: how many shards the finished dataset has.
        dtype: of `params` on disk.
        source: how the runs were made, free JSON.
        held_out: `{"validation": n, "test": m}` where the last m kept runs are the test split and the n before them
            the validation split, as in data that comes with its own split; None for `split_of`.
    """

    task: Name
    layout: ParameterLayout
    metrics: dict[str, Metric]
    num_shards: Annotated[int, Between(1, MAX_SHARDS)]
    dtype: str = "float16"
    source: dict[str, Any] = field(default_factory=dict)
    held_out: dict[str, Whole] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {list(DTYPES)}, got {self.dtype!r}")
        if not isinstance(self.num_shards, int) or self.num_shards < 1:
            raise ValueError(f"num_shards must be at least 1, got {self.num_shards!r}")
        for name, metric in self.metrics.items():
            if name != metric.name or name in (RUN, STEP, PARAMS):
                raise ValueError(
                    f"a metric must be listed by its name, which is none of {[RUN, STEP, PARAMS]}, got {brief(name)} "
                    f"for {brief(metric.name)}"
                )
        if self.held_out is not None and (
            set(self.held_out) != {"validation", "test"} or min(self.held_out.values()) < 0
        ):
            raise ValueError(f"held_out must count the runs for validation and for test, got {self.held_out!r}")

    def to_json(self) -> dict[str, Any]:
        """The content of dataset.json."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "task": self.task,
            "num_params": self.layout.num_params,
            "layout": self.layout.to_json(),
            "metrics": {name: metric.to_json() for name, metric in self.metrics.items()},
            "dtype": self.dtype,
            "source": self.source,
            **({} if self.held_out is None else {"held_out": self.held_out}),
            "num_shards": self.num_shards,  # after the settings it follows from, which a refusal should name
        }

    @classmethod
    def read(cls, folder: Path) -> DatasetHeader:
        """Read dataset.json of a folder."""
        path = folder / HEADER_FILE
        if not path.is_file():
            raise StoreError(
                f"{folder} is not a checkpoint dataset: it has no {HEADER_FILE}; make one with gpt-harvest"
            )
        entries = read_json(path, max_bytes=MAX_HEADER_BYTES)
        if not isinstance(entries, dict) or {"format", "version"} - set(entries):
            raise StoreError(f"{path} must be the header of a dataset, with format and version, got {brief(entries)}")
        found, version = entries.pop("format"), entries.pop("version")
        if (found, version) != (FORMAT, VERSION):
            raise StoreError(
                f"{path} must be {FORMAT!r} version {VERSION}, got {brief(found)} version {brief(version)}: written by "
                "another program or a newer release"
            )
        num_params = entries.pop("num_params", None)
        header = read_part(cls, entries, path)
        if num_params not in (None, header.layout.num_params):
            raise StoreError(
                f"{path} must have the num_params of its layout, {header.layout.num_params}, got {brief(num_params)}"
            )
        return header


@dataclass(frozen=True)
class RunRecord:
    """One optimisation: its rows in the shard and whatever is known about it.

    The metadata of a harvested run are its `optimizer` and its base `learning_rate`.
    """

    run: Whole
    first_row: Whole
    num_checkpoints: Count
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        return asdict(self)


@dataclass(frozen=True)
class ShardFile:
    """Size and SHA-256 of a file of a shard, and, of parquet, its rows."""

    bytes: Whole
    sha256: Annotated[str, Between(64, 64)]
    rows: Whole | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain dict, without what is not said."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Manifest:
    """What `shard-N.json` says, here and in an exchange.

    Attributes:
        files: by name.
        left_out: `{run: reason}` of the runs that were not kept.
        runs: in the order of their rows.
        arrays: of an exchange, type and shape of a row of each further array.
    """

    files: dict[str, ShardFile]
    left_out: dict[str, str]
    runs: list[RunRecord]
    arrays: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if wrong := [run for run in self.left_out if not RUN_NUMBER.fullmatch(run)]:
            raise ValueError(f"left_out must list runs by their numbers, got {brief(wrong[0])}")

    @property
    def left_out_runs(self) -> dict[int, str]:
        """The runs left out, by number."""
        return {int(run): reason for run, reason in self.left_out.items()}

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read the manifest of a shard.

        Raises:
            StoreError: an entry is missing or wrong; the message names the file.
            OSError: there is no such file.
        """
        return read_part(cls, read_json(path), path)


def read_part(cls: type[Part], entries: Any, path: Path) -> Part:
    """Check entries of a dataset's file against its dataclass; a StoreError names the file."""
    try:
        return read_object(cls, entries, str(path))
    except ValueError as error:
        raise StoreError(str(error)) from error


def shard_name(index: int) -> str:
    """`shard-00000`, without the suffix."""
    return f"shard-{index:05d}"


def split_of(run: int) -> Split:
    """Of every 20 runs, one is for validation and one for test; a longer harvest never moves a run."""
    return {18: "validation", 19: "test"}.get(run % 20, "train")  # type: ignore[return-value]
