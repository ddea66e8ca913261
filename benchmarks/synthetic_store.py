"""Datasets of random numbers, as large as a benchmark needs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from checkpoints_dataset.format import DatasetHeader, RunRecord
from checkpoints_dataset.store import CheckpointStore
from checkpoints_dataset.writer import DatasetWriter
from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks import get_task

TASK = "reference-mnist"  # the paper's MLP 784-10-10: 7,960 parameters; needs no images
CHECKPOINTS = 50
RUNS_PER_SHARD = 250


def write_random_store(folder: Path, num_runs: int, dtype: str = "float16") -> CheckpointStore:
    """Write runs of 50 random networks each, 200 MB a shard in float16, and open them without reading them again."""
    task = get_task(TASK)
    num_shards = -(-num_runs // RUNS_PER_SHARD)
    writer = DatasetWriter(folder, DatasetHeader(TASK, task.layout, dict(task.metrics), num_shards, dtype))
    generator = keyed_generator(0)
    shape = (min(num_runs, RUNS_PER_SHARD) * CHECKPOINTS, task.layout.num_params)
    block = (0.1 * torch.randn(shape, generator=generator)).to(getattr(torch, dtype))  # the same in every shard
    losses = torch.rand(len(block), generator=generator).numpy()
    for shard in range(num_shards):
        runs = range(shard * RUNS_PER_SHARD, min(num_runs, (shard + 1) * RUNS_PER_SHARD))
        num_rows = len(runs) * CHECKPOINTS
        records = [RunRecord(run, place * CHECKPOINTS, CHECKPOINTS, {}) for place, run in enumerate(runs)]
        steps = np.tile(np.arange(CHECKPOINTS, dtype=np.int64), len(runs))
        metrics = dict.fromkeys(task.metrics, losses[:num_rows])
        writer.write_rows(shard, block[:num_rows], steps, metrics, records)
    return CheckpointStore(folder, verify=False)


def runs_of_gigabytes(gigabytes: float) -> int:
    """How many runs fill that much, in float16."""
    return max(20, round(gigabytes * 1e9 / (2 * get_task(TASK).layout.num_params * CHECKPOINTS)))
