"""How much faster a harvest is than training the same networks one after the other in plain PyTorch.

    python benchmarks/harvest_speed.py --rounds 5 --json runs/harvest_speed.json
    python benchmarks/harvest_speed.py --task fashion-mnist --batch-size 128 --sequential 2 --sequential-steps 100
    python benchmarks/harvest_speed.py --against ../another-checkout --rounds 9

Both sides take the same steps on mini-batches of the same size and keep the same checkpoints with their validation
loss and error; the harvest also reads its data and writes its shards to disk. The sequential side runs with one
thread and with all of them, and the faster counts. The sides alternate within each round, so that a slow minute of
the machine meets both. Prints a table and the median ratio.

With --sequential-steps the sequential side takes the first steps of each run only. Steps and checkpoints are then
timed apart, and the time of each is scaled to its number in a whole run.

With --against the harvest of another checkout of this repository is the other side, such as that of the commit before;
each side is a process of its own, with one thread, and they take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from checkpoints_dataset.config import HarvestConfig, checkpoint_steps
from checkpoints_dataset.harvest import harvest
from g_pt.files.atomic import write_json
from g_pt.runtime.cpu_memory import keep_freed_memory
from g_pt.tasks import get_task
from g_pt.tasks.classification import ClassificationTask


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits", help="any task with labelled examples")
    parser.add_argument("--runs", type=int, default=250, help="networks harvested per round")
    parser.add_argument("--runs-per-shard", type=int, default=250, help="of them, trained as one tensor program")
    parser.add_argument("--sequential", type=int, default=4, help="networks trained one by one per round")
    parser.add_argument("--sequential-steps", type=int, help="steps of each of these; all where not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of each network")
    parser.add_argument("--checkpoints", type=int, default=60, help="checkpoints of each network")
    parser.add_argument("--batch-size", type=int, default=64, help="examples per step")
    parser.add_argument("--mixed-precision", choices=["no", "bf16"], default="no", help="of the harvest alone")
    parser.add_argument("--against", type=Path, help="folder of another checkout, whose harvest is the other side")
    parser.add_argument("--against-python", default=sys.executable, help="its interpreter, where that is another")
    parser.add_argument("--json", type=Path, help="where the numbers go, besides the table")
    args = parser.parse_args()
    keep_freed_memory()  # as gpt-harvest does
    settings = {
        "task": args.task,
        "num_runs": args.runs,
        "runs_per_shard": args.runs_per_shard,
        "num_steps": args.steps,
        "num_checkpoints": args.checkpoints,
        "batch_size": args.batch_size,
        "mixed_precision": args.mixed_precision,
    }
    config = HarvestConfig(**settings)
    if args.against:
        compare(settings, args.against, args.against_python, args.rounds)
        return
    sequential_steps = config.num_steps if args.sequential_steps is None else args.sequential_steps
    if not 1 <= sequential_steps <= config.num_steps:
        parser.error(f"--sequential-steps must lie between 1 and --steps = {config.num_steps}, got {sequential_steps}")
    results = measure(config, args.sequential, sequential_steps, args.rounds)
    print_table(results)
    if args.json:
        write_json(args.json, results)


def measure(config: HarvestConfig, num_sequential: int, sequential_steps: int, num_rounds: int) -> dict[str, Any]:
    """Networks per second of every side in every round, and the ratio of the harvest to the better sequential one."""
    task, all_threads = get_task(config.task), torch.get_num_threads()
    if not isinstance(task, ClassificationTask):
        raise SystemExit(f"the plain PyTorch side needs a task with labelled examples; {config.task!r} is none")
    threads = sorted({1, all_threads})
    sides: dict[str, list[float]] = {f"one by one, {n} thread{'s' * (n > 1)}": [] for n in threads}
    sides["harvest"] = []
    warm_up = replace(config, num_runs=8, num_steps=10, num_checkpoints=3)
    train_one(task, warm_up, seed=0, num_steps=10)
    harvest_to_temporary_folder(warm_up)
    for round_number in range(num_rounds):
        for name, num_threads in zip(sides, threads, strict=False):
            torch.set_num_threads(num_threads)
            seeds = range(round_number * num_sequential, (round_number + 1) * num_sequential)
            seconds = [train_one(task, config, seed, sequential_steps) for seed in seeds]
            sides[name].append(num_sequential / sum(seconds))
        torch.set_num_threads(all_threads)
        sides["harvest"].append(config.num_runs / timed(harvest_to_temporary_folder, config))
    *sequential, harvested = sides.values()
    ratios = [fast / max(slow) for fast, *slow in zip(harvested, *sequential, strict=True)]
    return {
        "networks_per_second": sides,
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
        "settings": {
            "task": config.task,
            "runs": config.num_runs,
            "runs_per_shard": config.runs_per_shard,
            "steps": config.num_steps,
            "checkpoints": config.num_checkpoints,
            "batch_size": config.batch_size,
            "sequential": num_sequential,
            "sequential_steps": sequential_steps,
        },
        "machine": {"cores": os.cpu_count(), "threads": all_threads, "cpu": platform.machine()},
        "torch": torch.__version__,
    }


WORKER = """
import json, sys, tempfile, time
from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.harvest import harvest
for line in sys.stdin:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        harvest(HarvestConfig(**json.loads(line)), folder)
        print(time.perf_counter() - started, flush=True)
"""


def compare(settings: Mapping[str, Any], checkout: Path, python: str, num_rounds: int) -> list[float]:
    """Print seconds of this checkout's harvest and of another's, in turn; returns the speed of this over the other."""
    sides = {"other": (python, checkout), "this": (sys.executable, Path(__file__).parents[1])}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(worker(*side)) for name, side in sides.items()}

        def work(name: str) -> float:
            stdin, stdout = workers[name].stdin, workers[name].stdout
            assert stdin is not None
            assert stdout is not None
            print(json.dumps(settings), file=stdin, flush=True)
            return float(stdout.readline())

        for name in sides:
            work(name)  # warm up
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(num_rounds):
            for name in sides if number % 2 else reversed(sides):
                seconds[name].append(work(name))
    ratios = [theirs / ours for theirs, ours in zip(seconds["other"], seconds["this"], strict=True)]
    for name, values in seconds.items():
        print(f"{name}: median {statistics.median(values):.3f} s ({min(values):.3f} to {max(values):.3f})")
    print(
        f"speed of this over the other: median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )
    return ratios


def worker(python: str, checkout: Path) -> subprocess.Popen[str]:
    """A process that harvests with the code of a checkout, whenever it is sent settings."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [python, "-c", WORKER], cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def timed(work: Callable[..., object], *arguments: Any) -> float:
    """Wall-clock seconds of a call."""
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def harvest_to_temporary_folder(config: HarvestConfig) -> None:
    """A whole harvest, its files included."""
    with tempfile.TemporaryDirectory() as folder:
        harvest(config, folder)


def train_one(task: ClassificationTask, config: HarvestConfig, seed: int, num_steps: int) -> float:
    """Train a network as one would by hand, for the first steps of its run; returns the seconds of a whole run."""
    started, checkpoint_seconds = time.perf_counter(), 0.0
    generator = torch.Generator().manual_seed(seed)
    train, validation = task.splits["train"], task.splits["validation"]
    network = task.network()
    rate, used = config.rule.learning_rate, config.rule.optimizer
    optimizer = torch.optim.SGD(
        network.parameters(), rate, used.momentum, weight_decay=used.weight_decay, nesterov=True
    )
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_steps)
    keep = set(checkpoint_steps(config.num_steps, config.num_checkpoints, config.spacing))
    kept, measured = [], []
    batches: Iterator[Tensor] = iter(())
    for step in range(num_steps + 1):
        if step in keep:
            kept_at = time.perf_counter()
            kept.append(torch.nn.utils.parameters_to_vector(network.parameters()).detach().to(torch.float16))
            measured.append(loss_and_error(network, validation.inputs, validation.labels))
            checkpoint_seconds += time.perf_counter() - kept_at
        if step == num_steps:
            break
        examples = next(batches, None)
        if examples is None or len(examples) < config.batch_size:
            batches = iter(torch.randperm(len(train), generator=generator).split(config.batch_size))
            examples = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(network(train.inputs[examples]), train.labels[examples]).backward()
        optimizer.step()
        cosine.step()
    step_seconds = time.perf_counter() - started - checkpoint_seconds
    # of a whole run both factors are 1
    return step_seconds * config.num_steps / num_steps + checkpoint_seconds * config.num_checkpoints / len(kept)


@torch.no_grad()
def loss_and_error(network: torch.nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats and error in percent: (2,)."""
    network.eval()
    logits = network(inputs)
    network.train()
    error = 100 * (logits.argmax(dim=1) != labels).float().mean()
    return torch.stack([F.cross_entropy(logits, labels), error])


def print_table(results: dict[str, Any]) -> None:
    """Markdown, with the spread over the rounds."""
    settings = results["settings"]
    print("{task}: {steps} steps, {checkpoints} checkpoints, batches of {batch_size}".format(**settings))
    if settings["sequential_steps"] < settings["steps"]:
        print(f"one by one: scaled from the first {settings['sequential_steps']} of {settings['steps']} steps")
    print("| | networks/s, median | lowest | highest |\n|---|---|---|---|")
    for name, speeds in results["networks_per_second"].items():
        print(f"| {name} | {statistics.median(speeds):.2f} | {min(speeds):.2f} | {max(speeds):.2f} |")
    ratios = results["ratios"]
    print(f"\nharvest / one by one: {results['median_ratio']:.1f} times ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
