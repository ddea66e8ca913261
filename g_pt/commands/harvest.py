"""gpt-harvest: train many small networks at once and keep their checkpoints.

Examples:
    gpt-harvest --task digits --num-runs 4000
    gpt-harvest --task my_task.py:MyTask --num-runs 500
    gpt-harvest --task 'digits[64-*-10]' --hidden 8 16 24 32 48 --num-runs 600
    gpt-harvest --rule adam --rule.learning-rate-range 0.0003 0.01 --num-runs 500 --out runs/digits/adam
    gpt-harvest --rule adam --rule nesterov --rule.rules.0.learning-rate 0.02 --num-runs 500 --out runs/digits/mixed

Sizes come with some tasks, such as those of policies; flags and files count over them.
A harvest that was interrupted continues when the same command is given again.

Several processes share the shards, on one host or on several that see the same folder; the dataset is the same:
    torchrun --nproc_per_node 4 -m g_pt.commands.harvest --task digits --num-runs 4000
    accelerate launch --multi_gpu --num_processes 4 --module g_pt.commands.harvest --num-runs 4000
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints_dataset.config import HarvestConfig
from g_pt.command_line.output import check_writable, json_line
from g_pt.command_line.parsing import parse
from g_pt.command_line.terminal import exit_on_error, quiet_unless_first
from g_pt.runtime.processes import cpu_threads_of_a_process, join_team, leave_team, let_waiting_threads_sleep
from g_pt.tasks.data_folders import use_data_dir

if TYPE_CHECKING:
    from checkpoints_dataset.store import CheckpointStore


@dataclass(frozen=True)
class Arguments(HarvestConfig):
    """Settings of the harvest and where it goes."""

    out: Path | None = None
    """Folder of the dataset; runs/<task>/checkpoints where it is not given."""
    json: bool = False
    """Print one JSON object about the dataset on standard output."""
    data_dir: Path | None = None
    """Folder in which image sets are looked for first."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command."""
    let_waiting_threads_sleep()
    with exit_on_error("gpt-harvest"):
        with quiet_unless_first():
            parsed = parse(Arguments, arguments, prog="gpt-harvest", description=__doc__, task_defaults=task_defaults)
        use_data_dir(parsed.data_dir)
        config = HarvestConfig(**{f.name: getattr(parsed, f.name) for f in fields(HarvestConfig)})
        folder = parsed.out or default_folder(config.task)
        check_writable(folder, "--out")
        team = join_team()
        if team.count > 1:
            import torch

            torch.set_num_threads(cpu_threads_of_a_process())  # launchers would leave one
        from checkpoints_dataset.family_store import harvest_family
        from checkpoints_dataset.harvest import harvest_with_progress
        from g_pt.tasks import is_family

        with redirect_stdout(sys.stderr):  # a user's task may print, and --json promises one object
            if is_family(config.task):
                stores = harvest_family(config, folder, team)
                found = [summary(store) for store in stores.values()]
                made = {"folder": str(folder), "task": config.task, "members": found} if found else None
            elif config.hidden:
                raise ValueError(f"--hidden is for tasks of many sizes, such as digits[64-*-10], got {config.task!r}")
            else:
                store = harvest_with_progress(config, folder, team)
                made = None if store is None else summary(store)
        if parsed.json and made is not None:
            print(json_line(made))
        leave_team(team)


def task_defaults(task: str) -> Mapping[str, Any]:
    """Settings of a harvest that come with a task."""
    from g_pt.tasks import base_task

    with redirect_stdout(sys.stderr):  # as in `main`
        return base_task(task).harvest_defaults


def default_folder(task: str) -> Path:
    """Return `runs/<task>/checkpoints`; a task given as `path/to/file.py:MyTask` has the folder `my-task`.

    That of a family, `digits[64-*-10]`, is `runs/digits-64-any-10/checkpoints`: no shell minds it.
    """
    base, bracket, sizes = task.partition("[")
    if bracket:
        sizes = sizes.removesuffix("]").replace("**", "any").replace("*", "any")
        return default_folder(base).parent.with_name(f"{default_folder(base).parent.name}-{sizes}") / "checkpoints"
    _, colon, name = task.rpartition(":")
    if colon:
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()
    return Path("runs") / name.removesuffix(".py") / "checkpoints"


def summary(store: CheckpointStore) -> dict[str, Any]:
    """Summarise a dataset for `--json`."""
    return {
        "folder": str(store.folder),
        "task": store.header.task,
        "metrics": list(store.header.metrics),
        "checkpoints": len(store),
        "runs": len(store.runs),
        "left_out": {str(run): reason for run, reason in store.left_out.items()},
    }


if __name__ == "__main__":
    main()
