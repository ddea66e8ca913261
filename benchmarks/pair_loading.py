"""How fast pairs come from a dataset, against row access through `datasets` and LMDB, and what share of a step that is.

    python -m benchmarks.pair_loading --rounds 5

Networks of MNIST's size (7,960 parameters), 1,024 pairs a batch. First rows per second: the same number of random rows
through `CheckpointStore`, through `datasets` (a saved dataset of fixed-length lists, `dataset[rows]` in its torch
format) and through LMDB as the reference reads it, all float32 and in the file cache. Then seconds of a batch, as a
training draws it (float16 on disk; and with every pair in a random order of units), over seconds of a training step of
the `fashion-mnist` preset's model on such a batch. The sides take turns.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reference_pairs import LmdbPairs, write_random_runs
from benchmarks.rounds import Measured, machine, ratios, seconds_in_turn, table
from benchmarks.synthetic_store import TASK, write_random_store
from benchmarks.training_step import Size, TrainingStep
from checkpoints_dataset.pair_sampler import PairSampler
from checkpoints_dataset.store import CheckpointStore
from g_pt.files.atomic import write_json
from g_pt.model.pairs import CheckpointPairs
from g_pt.runtime.cpu_memory import keep_freed_memory
from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks import get_task

PRESET_SIZE = Size(256, 4, 8)  # of train/presets/fashion-mnist.yaml
METRIC = "loss"


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help="in the datasets, of 50 to 100 checkpoints")
    parser.add_argument("--batch-size", type=int, default=1024, help="pairs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the numbers go, besides the table")
    args = parser.parse_args()
    keep_freed_memory()
    lines = rows_per_second(args.runs, args.batch_size, args.rounds)
    lines += share_of_a_step(args.runs, args.batch_size, args.rounds)
    print(table(lines))
    if args.json:
        write_json(args.json, {"machine": machine(), "lines": [line.to_json() for line in lines]})


def rows_per_second(num_runs: int, batch_size: int, num_rounds: int) -> list[Measured]:
    """Random rows by three ways."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lmdb = LmdbPairs(write_random_runs(folder, num_runs, 100), None)
        store = CheckpointStore(folder / "made", verify=False)
        sampler = PairSampler(store, METRIC, batch_size=batch_size, seed=0)
        table_of_rows = saved_dataset(store, folder / "datasets")

        def through_datasets(step: int) -> object:
            start, target = sampler.rows(step)
            return table_of_rows[np.concatenate([start, target])]

        sides: dict[str, Callable[[int], object]] = {
            "store": sampler.batch,
            "datasets": through_datasets,
            "LMDB": lambda step: lmdb.batch(step, batch_size),
        }
        seconds = seconds_in_turn(sides, num_rounds)
    rates = [
        Measured(f"pairs from {name}", "rows/s", [2 * batch_size / s for s in values])
        for name, values in seconds.items()
    ]
    others = [
        Measured(f"store against {name}", "times", ratios(seconds[name], seconds["store"]))
        for name in ("datasets", "LMDB")
    ]
    return rates + others


def saved_dataset(store: CheckpointStore, folder: Path) -> Any:
    """The rows of a store as a memory-mapped dataset of `datasets`, which gives torch tensors."""
    try:
        from datasets import Dataset, Features, Value, load_from_disk
        from datasets import List as FixedList
    except ImportError as error:
        raise SystemExit("pair_loading compares with datasets: pip install 'g-pt[images]'") from error
    size = store.header.layout.num_params
    features = Features({"params": FixedList(Value("float32"), length=size), METRIC: Value("float32")})
    params = store.params(np.arange(len(store)))
    Dataset.from_dict({"params": list(params.numpy()), METRIC: store.metrics[METRIC]}, features).save_to_disk(folder)
    return load_from_disk(folder).with_format("torch")


def share_of_a_step(num_runs: int, batch_size: int, num_rounds: int) -> list[Measured]:
    """Milliseconds of drawing a batch, and their share of a step's."""
    task = get_task(TASK)
    step = TrainingStep(PRESET_SIZE, batch_size, task=TASK)
    with tempfile.TemporaryDirectory() as folder:
        sampler = PairSampler(write_random_store(Path(folder), num_runs), METRIC, batch_size=batch_size, seed=0)

        def permuted(number: int) -> CheckpointPairs:
            orders = task.permutations.draw(task.layout, batch_size, keyed_generator(0, number))
            return sampler.batch(number).permuted(task.layout, task.permutations, orders)

        sides: dict[str, Callable[[int], object]] = {"pairs": sampler.batch, "permuted pairs": permuted, "step": step}
        seconds = seconds_in_turn(sides, num_rounds)
    return [
        Measured(f"{name} of {batch_size:,}", "ms", [1e3 * s for s in values]) for name, values in seconds.items()
    ] + [
        Measured(f"{name}: share of the step", "", ratios(seconds[name], seconds["step"]))
        for name in ("pairs", "permuted pairs")
    ]


if __name__ == "__main__":
    main()
