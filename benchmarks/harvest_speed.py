"""How much faster a harvest is than training the same networks one after the other in plain PyTorch.

    python benchmarks/harvest_speed.py --rounds 5 --json runs/harvest_speed.json

Both sides take the same steps on mini-batches of the same size and keep the same checkpoints with their validation
loss and error; the harvest also writes its shards to disk. The sequential side runs with one thread and with all
of them, and the faster counts. The sides alternate within each round, so that a slow minute of the machine meets
both. Prints a table and the median ratio.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from checkpoints_dataset.config import HarvestConfig, checkpoint_steps
from checkpoints_dataset.harvest import harvest
from g_pt.atomic_files import write_json
from g_pt.tasks.digits import Digits


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=250, help="networks harvested per round")
    parser.add_argument("--sequential", type=int, default=4, help="networks trained one by one per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of each network")
    parser.add_argument("--checkpoints", type=int, default=60, help="checkpoints of each network")
    parser.add_argument("--json", type=Path, help="where the numbers go, besides the table")
    args = parser.parse_args()
    config = HarvestConfig(num_runs=args.runs, num_steps=args.steps, num_checkpoints=args.checkpoints)
    results = measure(config, args.sequential, args.rounds)
    print_table(results)
    if args.json:
        write_json(args.json, results)


def measure(config: HarvestConfig, num_sequential: int, num_rounds: int) -> dict[str, Any]:
    """Networks per second of every side in every round, and the ratio of the harvest to the better sequential one."""
    task, all_threads = Digits(), torch.get_num_threads()
    threads = sorted({1, all_threads})
    sides: dict[str, list[float]] = {f"one by one, {n} thread{'s' * (n > 1)}": [] for n in threads}
    sides["harvest"] = []
    warm_up = HarvestConfig(num_runs=8, num_steps=10, num_checkpoints=3)
    train_one(task, warm_up, seed=0)
    harvest_to_temporary_folder(warm_up)
    for round_number in range(num_rounds):
        for name, num_threads in zip(sides, threads, strict=False):
            torch.set_num_threads(num_threads)
            seeds = range(round_number * num_sequential, (round_number + 1) * num_sequential)
            sides[name].append(num_sequential / timed(train_one_by_one, task, config, seeds))
        torch.set_num_threads(all_threads)
        sides["harvest"].append(config.num_runs / timed(harvest_to_temporary_folder, config))
    *sequential, harvested = sides.values()
    ratios = [fast / max(slow) for fast, *slow in zip(harvested, *sequential, strict=True)]
    return {
        "networks_per_second": sides,
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
        "settings": {"runs": config.num_runs, "steps": config.num_steps, "checkpoints": config.num_checkpoints},
        "machine": {"cores": os.cpu_count(), "threads": all_threads, "cpu": platform.machine()},
        "torch": torch.__version__,
    }


def timed(work: Callable[..., object], *arguments: Any) -> float:
    """Wall-clock seconds of a call."""
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def harvest_to_temporary_folder(config: HarvestConfig) -> None:
    """A whole harvest, its files included."""
    with tempfile.TemporaryDirectory() as folder:
        harvest(config, folder)


def train_one_by_one(task: Digits, config: HarvestConfig, seeds: Iterable[int]) -> None:
    """Train networks in plain PyTorch, each from its seed."""
    for seed in seeds:
        train_one(task, config, seed)


def train_one(task: Digits, config: HarvestConfig, seed: int) -> tuple[Tensor, Tensor]:
    """Train a network as one would by hand; returns checkpoints (C, P) and validation metrics (C, 2)."""
    generator = torch.Generator().manual_seed(seed)
    train, validation = task.splits["train"], task.splits["validation"]
    network = task.network()
    optimizer = torch.optim.SGD(
        network.parameters(), config.learning_rate, config.momentum, weight_decay=config.weight_decay, nesterov=True
    )
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_steps)
    keep = set(checkpoint_steps(config.num_steps, config.num_checkpoints, config.spacing))
    kept, measured = [], []
    batches: Iterator[Tensor] = iter(())
    for step in range(config.num_steps + 1):
        if step in keep:
            kept.append(torch.nn.utils.parameters_to_vector(network.parameters()).detach().to(torch.float16))
            measured.append(loss_and_error(network, validation.inputs, validation.labels))
        if step == config.num_steps:
            break
        examples = next(batches, None)
        if examples is None or len(examples) < config.batch_size:
            batches = iter(torch.randperm(len(train), generator=generator).split(config.batch_size))
            examples = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(network(train.inputs[examples]), train.labels[examples]).backward()
        optimizer.step()
        cosine.step()
    return torch.stack(kept), torch.stack(measured)


@torch.no_grad()
def loss_and_error(network: torch.nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats and error in percent: (2,)."""
    logits = network(inputs)
    error = 100 * (logits.argmax(dim=1) != labels).float().mean()
    return torch.stack([F.cross_entropy(logits, labels), error])


def print_table(results: dict[str, Any]) -> None:
    """Markdown, with the spread over the rounds."""
    print("| | networks/s, median | lowest | highest |\n|---|---|---|---|")
    for name, speeds in results["networks_per_second"].items():
        print(f"| {name} | {statistics.median(speeds):.2f} | {min(speeds):.2f} | {max(speeds):.2f} |")
    ratios = results["ratios"]
    print(f"\nharvest / one by one: {results['median_ratio']:.1f} times ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
