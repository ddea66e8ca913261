"""Whether a training step is worth more than one thread: seconds and CPU seconds of a step, thread by thread.

    python -m benchmarks.training_threads --rounds 30
    OMP_WAIT_POLICY=passive python -m benchmarks.training_threads --rounds 30

The model, precision and batch size of the `digits` preset, or those asked for. Numbers of threads take turns, a
step each; the smallest of all rounds is given, since other work on the machine only ever adds to it. Medians beside
it show what such work costs: a thread that waits for another one spins, or sleeps by the second command, as those of
`gpt-train` do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch

from benchmarks.rounds import machine
from benchmarks.training_step import Size, TrainingStep
from g_pt.runtime.cpu_memory import keep_freed_memory
from g_pt.training.config import ModelConfig


def main() -> None:
    """Measure and print."""
    default = ModelConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--width", type=int, default=default.width)
    parser.add_argument("--layers", type=int, default=default.num_layers)
    parser.add_argument("--heads", type=int, default=default.num_heads)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", choices=["bf16", "no"], default="bf16")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    keep_freed_memory()
    step = TrainingStep(Size(args.width, args.layers, args.heads), args.batch_size, precision=args.precision)
    wall: dict[int, list[float]] = {threads: [] for threads in args.threads}
    cpu: dict[int, list[float]] = {threads: [] for threads in args.threads}
    for number in range(args.rounds + 1):
        for threads in args.threads:
            torch.set_num_threads(threads)
            started, started_cpu = time.perf_counter(), time.process_time()
            step(number)
            if number:  # the first round warms up
                wall[threads].append(time.perf_counter() - started)
                cpu[threads].append(time.process_time() - started_cpu)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{machine()}; load {load:.1f}; {os.environ.get('OMP_WAIT_POLICY', 'waiting threads spin')}")
    print(f"width {args.width}, {args.layers} blocks, batch {args.batch_size}, mixed precision: {args.precision}")
    print("threads  seconds a step: min, median  CPU seconds a step: min, median")
    for threads in args.threads:
        seconds, busy = wall[threads], cpu[threads]
        print(
            f"{threads:7}  {min(seconds):.3f}, {statistics.median(seconds):.3f}"
            f"  {min(busy):.3f}, {statistics.median(busy):.3f}"
        )


if __name__ == "__main__":
    main()
