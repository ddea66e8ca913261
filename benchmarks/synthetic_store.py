"""Datasets of random numbers, as large as a benchmark needs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from checkpoints_dataset.format import DatasetHeader, RunRecord
from checkpoints_dataset.store import CheckpointStore
from checkpoints_dataset.writer import DatasetWriter
from g_pt.seeds import keyed_generator
from g_pt.tasks import get_task

TASK = "reference-mnist"  # the paper's MLP 784-10-10: 7,960 parameters; needs no images
CHECKPOINTS = 50
RUNS_PER_SHARD = 250


def write_random_store(folder: Path, num_runs: int, dtype: str = "float16") -> CheckpointStore:
    """Write runs of 50 random networks each, 200 MB a shard in float16, and open them without reading them again."""
    task = get_task(TASK)
    num_shards = -(-num_runs // RUNS_PER_SHARD)
    writer = DatasetWriter(folder, DatasetHeader(TASK, task.layout, dict(task.metrics), num_shards, dtype))
    for shard in range(num_shards):
        runs = range(shard * RUNS_PER_SHARD, min(num_runs, (shard + 1) * RUNS_PER_SHARD))
        generator = keyed_generator(shard)
        params = torch.empty(len(runs) * CHECKPOINTS, task.layout.num_params, dtype=getattr(torch, dtype))
        for some in params.split(1000):
            some.copy_(0.1 * torch.randn(some.shape, generator=generator))
        losses = torch.rand(len(params), generator=generator).numpy()
        records = [RunRecord(run, place * CHECKPOINTS, CHECKPOINTS, {}) for place, run in enumerate(runs)]
        steps = np.tile(np.arange(CHECKPOINTS, dtype=np.int64), len(runs))
        writer.write_rows(shard, params, steps, dict.fromkeys(task.metrics, losses), records)
    return CheckpointStore(folder, verify=False)


def runs_of_gigabytes(gigabytes: float) -> int:
    """How many runs fill that much, in float16."""
    return max(20, round(gigabytes * 1e9 / (2 * get_task(TASK).layout.num_params * CHECKPOINTS)))
