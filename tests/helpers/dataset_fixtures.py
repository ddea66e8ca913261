"""A small harvest and a hand-made dataset, shared by the tests of `checkpoints_dataset`."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.format import DatasetHeader
from checkpoints_dataset.harvest import harvest
from checkpoints_dataset.writer import DatasetWriter
from g_pt.networks.metrics import Metric
from g_pt.networks.parameters import ParameterLayout
from rl_tasks.ppo_config import PPOConfig

ROOT = Path(__file__).parents[2]
SMALL = HarvestConfig(num_runs=40, num_steps=12, num_checkpoints=5, runs_per_shard=15)  # shards of 15, 15 and 10
POLICIES = HarvestConfig(
    task="cartpole",
    num_runs=22,
    num_steps=3,
    num_checkpoints=4,
    runs_per_shard=11,
    ppo=PPOConfig(n_steps=8, n_epochs=1),
)
LAYOUT = ParameterLayout(("fc1.weight", "fc1.bias"), ((2, 2), (2,)))
METRICS = {
    "loss": Metric("loss", "nats", minimize=True),
    "return": Metric("return", "points", minimize=False),
}


@cache
def finished_harvest() -> Path:
    """The dataset of `SMALL`, made once; not to be changed."""
    parent = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, parent)
    folder = Path(parent) / "checkpoints"
    harvest(SMALL, folder)
    return folder


def copied_harvest(parent: Path) -> Path:
    """A copy of that dataset, to be continued or damaged."""
    return Path(shutil.copytree(finished_harvest(), parent / "checkpoints"))


def file_hashes(folder: Path) -> dict[str, str]:
    """Name and content of every file of a folder, temporary ones included."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def synthetic_header(num_shards: int, dtype: str = "float32") -> DatasetHeader:
    """Of datasets whose networks have six parameters and two metrics, one to minimise and one to maximise."""
    return DatasetHeader("digits", LAYOUT, METRICS, num_shards, dtype, {"kind": "synthetic"})


def write_synthetic(folder: Path, num_shards: int = 3, runs_per_shard: int = 20, num_checkpoints: int = 4):
    """Write random rows; returns them as params (rows, P) and metrics `{metric: (rows,)}`."""
    writer = DatasetWriter(folder, synthetic_header(num_shards))
    generator = torch.Generator().manual_seed(0)
    written, measured = [], {name: [] for name in METRICS}
    for shard in range(num_shards):
        params = torch.randn(runs_per_shard, num_checkpoints, LAYOUT.num_params, generator=generator)
        metrics = {name: torch.rand(runs_per_shard, num_checkpoints, generator=generator) for name in METRICS}
        runs = {shard * runs_per_shard + i: {"learning_rate": 0.5 * i} for i in range(runs_per_shard)}
        writer.write_shard(shard, params, range(0, 10 * num_checkpoints, 10), metrics, runs)
        written.append(params.flatten(0, 1))
        for name, values in metrics.items():
            measured[name].append(values.flatten())
    return torch.cat(written), {name: torch.cat(values) for name, values in measured.items()}


def environment() -> dict[str, str]:
    """For child processes: this working copy, one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "300"}


def run_command(*arguments: str, **kwargs) -> subprocess.CompletedProcess[str]:
    """Run gpt-harvest in a process of its own."""
    program = "from g_pt.commands.harvest import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=250,
        **kwargs,
    )
