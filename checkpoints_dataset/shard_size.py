"""How many runs make a shard where nobody says it: as many as a kill may cost a minute of.

The number is measured once, before the first shard, and stands in the dataset's header, since a shard's bytes depend on
how many networks are drawn together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from checkpoints_dataset.config import MOST_AT_ONCE, HarvestConfig
from checkpoints_dataset.format import HEADER_FILE, DatasetHeader
from g_pt.tasks.base import Task, TrainedPopulation

SECONDS = 60.0  # that a shard should take at most
SIZES = (MOST_AT_ONCE, 120, 60, 30, 15, 8, 4, 2, 1)  # few, so that measurements that differ a little agree
TRIED = (2, 8, 32, 128)
MEASURED_STEPS = 2
# (task, settings, steps, number of networks, two generators) -> the trained networks
Train = Callable[[Task, HarvestConfig, list[int], int, torch.Generator, torch.Generator], TrainedPopulation]


def recorded_size(folder: Path | str) -> int | None:
    """Runs of a shard of the dataset that was begun in a folder; None where there is none."""
    if not (Path(folder) / HEADER_FILE).is_file():
        return None
    size = DatasetHeader.read(Path(folder)).source.get("runs_per_shard")
    return size if isinstance(size, int) and size > 0 else MOST_AT_ONCE


def measured_size(task: Task, config: HarvestConfig, train: Train) -> int:
    """Runs of a shard, from a few steps of a few networks, whose results are thrown away."""

    def seconds(num_networks: int) -> float:
        return estimated_seconds(task, config, train, num_networks)

    try:
        seconds(1)  # what happens once, such as tracing, is not counted
        return size_for(seconds, config.num_runs)
    except ValueError:  # settings for each of so many networks, or what the shard itself will say better
        return MOST_AT_ONCE


def size_for(seconds: Callable[[int], float], num_runs: int) -> int:
    """Largest of `SIZES` that takes at most `SECONDS`, at most a straight line through the last two measurements.

    Args:
        seconds: that a shard of so many networks takes.
        num_runs: of the whole dataset.
    """
    few, taken = 0, 0.0
    for num_networks in (n for n in TRIED if n <= max(num_runs, TRIED[0])):
        now = seconds(num_networks)
        if now / num_networks * MOST_AT_ONCE <= SECONDS:  # and many cost less than each alone
            return MOST_AT_ONCE
        each = max((now - taken) / (num_networks - few), 1e-9)
        few, taken = num_networks, now
        if now >= SECONDS:
            break
    fitting = few + (SECONDS - taken) / each
    return next((size for size in SIZES if size <= fitting), 1)


def estimated_seconds(task: Task, config: HarvestConfig, train: Train, num_networks: int) -> float:
    """Seconds of a whole shard of so many networks, from its first steps and one measurement of its metrics."""
    num_steps = min(MEASURED_STEPS, config.num_steps)
    generators = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    begin = time.perf_counter()
    trained = train(task, config, [0, num_steps], num_networks, *generators)
    middle = time.perf_counter()
    task.evaluate(trained.params[:, -1].float(), "validation")
    measuring = time.perf_counter() - middle
    stepping = max(middle - begin - 2 * measuring, 0.0) / num_steps
    return stepping * config.num_steps + measuring * config.num_checkpoints
