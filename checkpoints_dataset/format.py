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
from typing import Any

from g_pt.files.atomic import read_json
from g_pt.networks.metrics import Metric
from g_pt.networks.parameters import ParameterLayout
from g_pt.tasks.base import Split

FORMAT = "g-pt checkpoint dataset"
VERSION = 1
HEADER_FILE = "dataset.json"
PARAMS = "params"
RUN, STEP = "run", "step"
OWN_FILES = re.compile(r"dataset\.json|shard-\d{5,}\.(?:json|arrow|safetensors)")
DTYPES = ("float16", "float32")


class StoreError(ValueError):
    """A checkpoint dataset is missing, unfinished, damaged or of another format; the message names the file."""


@dataclass(frozen=True)
class DatasetHeader:
    """What all shards of a dataset share.

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

    task: str
    layout: ParameterLayout
    metrics: dict[str, Metric]
    num_shards: int
    dtype: str = "float16"
    source: dict[str, Any] = field(default_factory=dict)
    held_out: dict[str, int] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {list(DTYPES)}, got {self.dtype!r}")
        if not isinstance(self.num_shards, int) or self.num_shards < 1:
            raise ValueError(f"num_shards must be at least 1, got {self.num_shards!r}")
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
        entries = read_json(path)
        try:
            if entries["format"] != FORMAT or entries["version"] != VERSION:
                raise StoreError(
                    f"{path} must be {FORMAT!r} version {VERSION}, got {entries['format']!r} version "
                    f"{entries['version']}: written by another program or a newer release"
                )
            return cls(
                task=entries["task"],
                layout=ParameterLayout.from_json(entries["layout"]),
                metrics={name: Metric(**metric) for name, metric in entries["metrics"].items()},
                num_shards=entries["num_shards"],
                dtype=entries["dtype"],
                source=entries["source"],
                held_out=entries.get("held_out"),
            )
        except StoreError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StoreError(f"{path} lacks or has a wrong entry: {error!r}") from error


@dataclass(frozen=True)
class RunRecord:
    """One optimisation: its rows in the shard and whatever is known about it.

    The metadata of a harvested run are its `optimizer` and its base `learning_rate`.
    """

    run: int
    first_row: int
    num_checkpoints: int
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        return asdict(self)


def shard_name(index: int) -> str:
    """`shard-00000`, without the suffix."""
    return f"shard-{index:05d}"


def split_of(run: int) -> Split:
    """Of every 20 runs, one is for validation and one for test; a longer harvest never moves a run."""
    return {18: "validation", 19: "test"}.get(run % 20, "train")  # type: ignore[return-value]
