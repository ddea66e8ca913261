"""Every speed in one table.

    python -m benchmarks.all --json runs/benchmarks.json
    python -m benchmarks.all --quick

Harvesting against plain PyTorch, loading pairs against `datasets` and LMDB, training steps of three sizes against the
machine's own rate of matrix products, sampling, evaluation. What is compared takes turns within one run; figures are
medians over rounds. Each part is a program of its own in this folder, with more to choose. About six minutes on two
quiet cores; `--quick` is for seeing that all of it runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import harvest_speed, pair_loading, training_step, use_speed
from benchmarks.rounds import Measured, machine, table
from checkpoints_dataset.config import HarvestConfig
from g_pt.files.atomic import write_json
from g_pt.runtime.cpu_memory import keep_freed_memory

Part = Callable[[], list[Measured]]


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes; the figures mean nothing")
    parser.add_argument("--only", nargs="+", choices=list(parts(quick=True)), help="some of the parts")
    parser.add_argument("--json", type=Path, help="where the numbers go, besides the table")
    args = parser.parse_args()
    before, lines = machine(), []
    for name, part in parts(quick=args.quick).items():
        if args.only and name not in args.only:
            continue
        started = time.perf_counter()
        found = part()
        print(f"\n{name} ({time.perf_counter() - started:.0f} s)\n\n{table(found)}", flush=True)
        lines += found
    print(f"\nload of the machine before: {before['load']}, after: {machine()['load']}")
    if args.json:
        write_json(args.json, {"before": before, "after": machine(), "lines": [line.to_json() for line in lines]})


def parts(*, quick: bool) -> dict[str, Part]:
    """List the benchmarks, small where it is to be quick."""
    if quick:
        return {
            "harvest": lambda: harvest(HarvestConfig(num_runs=8, num_steps=8, num_checkpoints=3), 1, 1),
            "pairs": lambda: pair_loading.rows_per_second(20, 16, 1),
            "share of pairs": lambda: pair_loading.share_of_a_step(20, 16, 1),
            "training": lambda: training({"small": training_step.Size(32, 2, 2)}, 8, 1),
            "use": lambda: use_speed.sampling(1, (1, 4)) + use_speed.evaluation(1, 32),
        }
    return {
        "harvest": lambda: harvest(HarvestConfig(num_runs=250, num_checkpoints=60, runs_per_shard=250), 4, 4),
        "pairs": lambda: pair_loading.rows_per_second(40, 1024, 8),
        "share of pairs": lambda: pair_loading.share_of_a_step(40, 1024, 8),
        "training": lambda: training(training_step.SIZES, training_step.BATCH, 12),
        "use": lambda: use_speed.sampling(5) + use_speed.evaluation(5),
    }


def harvest(config: HarvestConfig, num_sequential: int, num_rounds: int) -> list[Measured]:
    """Networks per second, each trained for the whole number of steps, against plain PyTorch one by one."""
    results = harvest_speed.measure(config, num_sequential, config.num_steps, num_rounds)
    lines = [Measured(name, "networks/s", speeds) for name, speeds in results["networks_per_second"].items()]
    return [
        *lines,
        Measured(
            "harvest", "network steps/s", [config.num_steps * v for v in results["networks_per_second"]["harvest"]]
        ),
        Measured("harvest against one by one", "times", results["ratios"]),
    ]


def training(sizes: dict[str, training_step.Size], batch_size: int, num_rounds: int) -> list[Measured]:
    """Steps of models of several sizes."""
    keep_freed_memory()
    lines: list[Measured] = []
    for name, size in sizes.items():
        lines += training_step.measure(name, training_step.TrainingStep(size, batch_size), num_rounds)
    return lines


if __name__ == "__main__":
    main()
