"""How much faster training pairs come from a converted store than from the reference's LMDB folders.

    python benchmarks/reference_pairs.py --runs 40 --rounds 5 --json runs/reference_pairs.json
    python benchmarks/reference_pairs.py --lmdb checkpoint_datasets/mnist --store runs/mnist/checkpoints

Both give batches of start, target, and their metrics. The LMDB side reads as the reference's data set does, in one
process: every environment open from the start, one transaction and two copies for each vector, the list of a run's
keys for each pair, scaling, then stacking into a batch. The reference permutes the units of every pair it trains on;
--permute both does so on both sides, --permute lmdb on its side alone, as unit tokens are equivariant and need no
permuted pairs. Without --lmdb, random networks of
MNIST's size are written to a temporary folder and converted. Everything is in the file cache of the system.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from checkpoints_dataset.format import DatasetHeader, RunRecord
from checkpoints_dataset.lmdb.names import METRICS
from checkpoints_dataset.lmdb.reading import ImportOptions, import_runs
from checkpoints_dataset.lmdb.runs import LmdbRuns, import_lmdb
from checkpoints_dataset.lmdb.writing import export_runs
from checkpoints_dataset.pair_sampler import PairSampler
from checkpoints_dataset.store import CheckpointStore
from checkpoints_dataset.writer import DatasetWriter
from g_pt.files.atomic import write_json
from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks import get_task
from g_pt.tasks.base import Task

COEFFICIENT = 4.185
METRIC, OUR_METRIC = "avg_test_loss", "loss"


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmdb", type=Path, help="folder of the reference's runs; random ones where not given")
    parser.add_argument("--store", type=Path, help="the converted store; converted to a temporary one where not given")
    parser.add_argument("--runs", type=int, default=20, help="random runs that are made")
    parser.add_argument("--checkpoints", type=int, default=200, help="of each of them")
    parser.add_argument("--batch-size", type=int, default=256, help="pairs")
    parser.add_argument("--batches", type=int, default=8, help="of each side in a round")
    parser.add_argument("--permute", choices=["none", "lmdb", "both"], default="none", help="units of every pair")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="count the process's own seconds; for busy machines")
    parser.add_argument("--json", type=Path, help="where the numbers go, besides the line printed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = args.lmdb or write_random_runs(Path(folder), args.runs, args.checkpoints)
        options = ImportOptions(num_test_runs=0)
        store = CheckpointStore(args.store) if args.store else import_runs(source, Path(folder) / "store", options)
        results = measure(source, store, args)
    speeds = {name: statistics.median(values) for name, values in results["rows_per_second"].items()}
    print(
        f"lmdb {speeds['lmdb']:,.0f}, store {speeds['store']:,.0f} rows/s: {results['median_ratio']:.1f} times as fast "
        f"({min(results['ratios']):.1f} to {max(results['ratios']):.1f})"
    )
    if args.json:
        write_json(args.json, results)


def measure(source: Path, store: CheckpointStore, args: argparse.Namespace) -> dict[str, Any]:
    """Rows per second of both sides in every round, one after the other in each, and their ratios."""
    sampler = PairSampler(store, OUR_METRIC, batch_size=args.batch_size, seed=0)
    task = get_task(store.header.task)
    reader = LmdbPairs(source, task if args.permute != "none" else None)

    def permuted(step: int) -> object:
        orders = task.permutations.draw(task.layout, args.batch_size, keyed_generator(0, step))
        return sampler.batch(step).permuted(task.layout, task.permutations, orders)

    sides: dict[str, Callable[[int], object]] = {
        "lmdb": lambda step: reader.batch(step, args.batch_size),
        "store": permuted if args.permute == "both" else sampler.batch,
    }
    clock = time.process_time if args.cpu_time else time.perf_counter
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side(0)  # warm up
    for round_number in range(args.rounds):
        for name, side in sides.items():
            started = clock()
            for step in range(args.batches):
                side(1 + round_number * args.batches + step)
            speeds[name].append(2 * args.batch_size * args.batches / (clock() - started))
    ratios = [fast / slow for slow, fast in zip(speeds["lmdb"], speeds["store"], strict=True)]
    return {
        "rows_per_second": speeds,
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
        "settings": {
            "runs": len(store.runs),
            "checkpoints": len(store),
            "parameters": store.header.layout.num_params,
            "batch_size": args.batch_size,
            "permute": args.permute,
            "clock": clock.__name__,
        },
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads()},
    }


class LmdbPairs:
    """Pairs read as the reference reads them."""

    def __init__(self, folder: Path, task: Task | None) -> None:
        """Open every folder (one descriptor each) and read every runs.json; a task's units are permuted."""
        lmdb, self.task = import_lmdb(), task
        with LmdbRuns(folder) as runs:
            self.listings = []
            for name in runs.names:
                listing = runs.listing(name)
                values = dict(zip(listing.keys, listing.metrics[METRIC], strict=True))
                self.listings.append({key: {METRIC: value} for key, value in values.items()})
            opened = {
                path: lmdb.open(str(path), map_size=10 << 20, readonly=True, lock=False, readahead=False)
                for path in dict.fromkeys(runs.folders.values())
            }
            self.environments = [opened[runs.folders[name]] for name in runs.names]

    def batch(self, step: int, batch_size: int) -> dict[str, Tensor]:
        """One batch, pair by pair."""
        torch.manual_seed(step)
        order = torch.randint(len(self.listings), (batch_size,)).tolist()
        pairs = [self.pair(run) for run in order]
        return {
            "start": torch.stack([pair[0] for pair in pairs]),
            "future": torch.stack([pair[1] for pair in pairs]),
            "metrics": torch.tensor([pair[2:] for pair in pairs], dtype=torch.float64),
        }

    def pair(self, run: int) -> tuple[Tensor, Tensor, float, float]:
        """Two checkpoints of a run, scaled, and their metrics."""
        listing = self.listings[run]
        keys = list(listing)
        spacing = int(torch.randint(1, len(keys), ()).item())
        first = int(torch.randint(0, len(keys) - spacing, ()).item())
        start, future = keys[first], keys[first + spacing]
        vectors = [self.vector(run, key) * COEFFICIENT for key in (start, future)]
        if self.task is not None:  # pair by pair, the same order for both
            orders = self.task.permutations.draw(self.task.layout, 1, torch.default_generator)
            index = self.task.permutations.index(self.task.layout, orders)[0]
            vectors = [vector[index] for vector in vectors]
        return vectors[0], vectors[1], listing[start][METRIC], listing[future][METRIC]

    def vector(self, run: int, key: str) -> Tensor:
        """One vector, in a transaction of its own."""
        with self.environments[run].begin() as transaction:
            value = transaction.get(key.encode())
        return torch.frombuffer(bytearray(value), dtype=torch.float32)


def write_random_runs(folder: Path, num_runs: int, num_checkpoints: int) -> Path:
    """Runs of random networks of MNIST's size, in the reference's format."""
    layout, metrics = get_task("reference-mnist").layout, {METRICS[METRIC].name: METRICS[METRIC]}
    header = DatasetHeader("reference-mnist", layout, metrics, num_runs, "float32")
    writer = DatasetWriter(folder / "made", header)
    for run in range(num_runs):
        params = 0.1 * torch.randn(num_checkpoints, layout.num_params)
        losses = np.linspace(2.3, 0.2, num_checkpoints, dtype=np.float32)
        records = [RunRecord(run, 0, num_checkpoints, {"name": f"{run:06d}"})]
        writer.write_rows(run, params, np.arange(num_checkpoints), {OUR_METRIC: losses}, records)
    export_runs(CheckpointStore(folder / "made", verify=False), folder / "lmdb")
    return folder / "lmdb"


if __name__ == "__main__":
    main()
