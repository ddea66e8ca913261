"""The parts of gpt-import for checkpoints of the user's own: files with a table, and recordings that were killed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from g_pt.commands.harvest import summary

if TYPE_CHECKING:
    from checkpoints_dataset.store import CheckpointStore


@dataclass(frozen=True)
class Folder:
    """Make a dataset of your own .safetensors and .pt state dicts and a table of their metrics."""

    folder: tyro.conf.Positional[Path]
    """That the table's file names begin in."""
    csv: Path
    """Table with the columns file, run, step, and the metrics on the validation split."""
    out: Path
    """Folder of the dataset."""
    task: str
    """Task of the networks: a name, path/to/file.py:Class or package.module:Class."""
    metrics: tuple[str, ...] = ()
    """Those of the task's metrics that the table has; all of them where not given."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the parameters on disk."""
    json: bool = False
    """Print one JSON object on standard output instead of lines for people."""


@dataclass(frozen=True)
class Recorded:
    """Finish a recording of CheckpointRecorder whose program was killed."""

    dataset: tyro.conf.Positional[Path]
    """Folder of the dataset."""
    json: bool = False
    """Print one JSON object on standard output instead of lines for people."""


def import_own_folder(arguments: Folder) -> dict[str, Any]:
    """Convert with a progress bar."""
    from tqdm import tqdm

    from checkpoints_dataset.folder_import import import_folder
    from g_pt.tasks import get_task

    with tqdm(desc="reading", unit="file", disable=None) as bar:
        store = import_folder(
            arguments.folder,
            arguments.csv,
            arguments.out,
            get_task(arguments.task),
            metrics=arguments.metrics or None,
            dtype=arguments.dtype,
            progress=bar.update,
        )
    return told(store)


def finish_recorded(arguments: Recorded) -> dict[str, Any]:
    """Bring finished runs into the dataset."""
    from checkpoints_dataset.recording import finish_recording
    from checkpoints_dataset.store import CheckpointStore

    finish_recording(arguments.dataset)
    return told(CheckpointStore(arguments.dataset))


def told(store: CheckpointStore) -> dict[str, Any]:
    """Say what a dataset has, and what it lacks for training; returns what `--json` prints."""
    from g_pt.tasks.base import SPLITS

    splits = {split: len(store.runs_of(split)) for split in SPLITS}
    print(f"{store.folder}: {len(store)} checkpoints of {len(store.runs)} runs of task {store.header.task}")
    if missing := [split for split, count in splits.items() if not count]:
        print(
            f"  no runs for {' and '.join(missing)}: of every 20 runs one is for validation and one for test, and "
            "training wants both",
            file=sys.stderr,
        )
    return {**summary(store), "splits": splits}
