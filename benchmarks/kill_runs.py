"""Kill harvests and trainings at random moments, resume them, and compare every byte with an undisturbed run.

    python -m benchmarks.kill_runs --harvests 35 --trainings 63

A third of the runs is killed twice. Signals are SIGKILL, SIGTERM and SIGINT in turn; programs are forked from this
process, which has imported everything, so that moments are those of the work and not of imports.
Exit status 1 where a run ended otherwise.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from g_pt.commands import harvest, train

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
HARVEST = "--num-runs 12 --num-steps 80 --num-checkpoints 8 --runs-per-shard 3"
TRAINING = (
    "--model.width 16 --model.num-layers 1 --model.num-heads 2 --pairs.batch-size 8 --optimizer.num-steps 20 "
    "--optimizer.warmup-steps 5 --optimizer.mixed-precision no --optimizer.cpu-threads 1 --alignment.num-steps 4 "
    "--alignment.batch-size 8 --alignment.num-examples 32 --progress.evaluate-every 20 --progress.num-networks 4 "
    "--progress.save-every 2 --harvest.num-runs 40 --harvest.num-steps 10 --harvest.num-checkpoints 4 "
    "--harvest.runs-per-shard 20"
)
IMPORTED = (
    *("checkpoints_dataset.harvest", "checkpoints_dataset.pair_sampler", "g_pt.training.loop", "sklearn.datasets"),
    *("g_pt.training.alignment", "g_pt.pictures.training", "g_pt.tasks.digits", "matplotlib.backends.backend_agg"),
)
UNUSED = ("random_states_0.pkl", "files.json")
SAME = "the same bytes"
FORK = multiprocessing.get_context("fork")


def main() -> None:
    """Entry point of the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harvests", type=int, default=35)
    parser.add_argument("--trainings", type=int, default=63)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for module in IMPORTED:
        importlib.import_module(module)
    right = True
    with tempfile.TemporaryDirectory() as parent:
        for kind, number in (("harvest", options.harvests), ("training", options.trainings)):
            folder, moments = Path(parent) / kind, random.Random(options.seed)
            seconds = wait(begin(kind, folder / "whole"), None)[1]
            results = Counter(trial(kind, folder, seconds, moments, index) for index in range(number))
            right &= set(results) <= {SAME}
            print(f"{kind}s, {seconds:.1f} s undisturbed: {dict(results)}", flush=True)
    raise SystemExit(not right)


def trial(kind: str, folder: Path, seconds: float, moments: random.Random, index: int) -> str:
    """Kill and resume one run; returns how it ended."""
    run = folder / str(index)
    for _ in range(2 if index % 3 == 2 else 1):
        wait(begin(kind, run), (SIGNALS[index % 3], moments.uniform(0, seconds)))
    code, _ = wait(begin(kind, run), None)
    same = code == 0 and contents(run) == contents(folder / "whole")
    if not same:
        print(f"{kind} {index}: exit code {code}, differs in {differences(contents(run), contents(folder / 'whole'))}")
    shutil.rmtree(run)
    return SAME if same else "other bytes" if code == 0 else f"exit code {code}"


def begin(kind: str, run: Path) -> Callable[[], None]:
    """The program that begins a run or continues it."""
    if kind == "harvest":
        return lambda: harvest.main(["--task", "digits", "--out", str(run / "data"), *HARVEST.split()])
    resume = ["--resume"] if (run / "output" / "train_config.json").exists() else []
    folders = ["--dataset", str(run / "data"), "--output", str(run / "output")]
    return lambda: train.main([*folders, *TRAINING.split(), *resume])


def wait(program: Callable[[], None], kill: tuple[signal.Signals, float] | None) -> tuple[int, float]:
    """Run to the end, or to a signal after so many seconds; returns exit code and seconds."""

    def child() -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.dup2(null, sys.stderr.fileno())
        program()

    process, began = FORK.Process(target=child), time.perf_counter()
    process.start()
    process.join(kill[1] if kill else None)
    if kill and process.is_alive():
        os.kill(int(process.pid or 0), kill[0])
    process.join()
    return int(process.exitcode or 0), time.perf_counter() - began


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run but the states of random generators that nothing draws from, and their fingerprints."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.name not in UNUSED]
    return {str(path.relative_to(run)): path.read_bytes().replace(str(run).encode(), b"RUN") for path in files}


def differences(found: dict[str, bytes], wanted: dict[str, bytes]) -> list[str]:
    """Names of files that are not the same."""
    return [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]


if __name__ == "__main__":
    main()
