"""Whether a harvest fits into the memory and onto the disk of this machine, counted before anything is made."""

from __future__ import annotations

import shutil
from pathlib import Path

from checkpoints_dataset.config import HarvestConfig
from g_pt.command_line.output import check_fits, nearest_existing
from g_pt.tasks.base import Task

BYTES = {"float16": 2, "float32": 4}
TRAINED = 4 * 4  # float32: a parameter, its gradient and, of Adam, two moments
SHARD_COPIES = 2  # the checkpoints of a shard, and those of the runs that are kept


def check_capacity(config: HarvestConfig, task: Task, folder: Path) -> None:
    """Refuse a harvest that cannot fit, whatever else takes memory; what the folder holds already is not counted.

    Raises:
        ValueError: a shard takes more than the memory, or all shards more than what is free on the disk.
    """
    num_params, runs = task.layout.num_params, min(config.num_runs, config.at_once)
    run = config.num_checkpoints * num_params * BYTES[config.dtype]
    check_fits(
        runs * (SHARD_COPIES * run + TRAINED * num_params),
        f"a shard of {runs:,} runs, the lesser of num_runs and runs_per_shard,",
    )
    written = sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) if folder.is_dir() else 0
    wanted, free = config.num_runs * run - written, shutil.disk_usage(nearest_existing(folder)).free
    if wanted > free:
        raise ValueError(
            f"{config.num_runs:,} runs of {config.num_checkpoints} checkpoints take {wanted / 2**30:,.1f} GiB more, "
            f"and {free / 2**30:,.1f} are free where {folder} is: ask for less"
        )
