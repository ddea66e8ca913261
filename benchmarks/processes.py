"""How training on several processes compares with one: steps per second at the same global batch, and the losses.

    python benchmarks/processes.py --dataset runs/digits/checkpoints --processes 1 2 --json runs/processes.json

Each number of processes is launched by torchrun as a user would, on GPUs where there are any. Every trial takes the
same steps of the first stage; rounds alternate, so that a slow minute of the machine meets all. The time of a step is
measured inside the program, from the end of the first step to the end of the last: imports and the first step, which
is slower, do not count. Prints a table; the losses of all numbers of processes must agree to 1e-4.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from g_pt.files.atomic import write_json

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "train" / "train_g_pt.py"
TIMES_FILE = "times.json"


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True, help="a finished checkpoint dataset")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of each trial")
    parser.add_argument("--json", type=Path, help="where the numbers go, besides the table")
    parser.add_argument("program", nargs="*", help="further flags of train_g_pt.py, after --, such as --preset digits")
    parser.add_argument("--time-into", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.time_into:
        train_timed(args.program, args.time_into)
        return
    flags = [*args.program, "--dataset", str(args.dataset.resolve()), "--optimizer.num-steps", str(args.steps)]
    flags += ["--progress.evaluate-every", "0", "--progress.save-every", "0", "--alignment.num-steps", "0"]
    results = measure(args.processes, args.rounds, flags)
    print_table(results)
    if args.json:
        write_json(args.json, results)


def train_timed(flags: list[str], path: Path) -> None:
    """Train, and note when each step has ended; run by every process of a trial."""
    from g_pt.training.log import TrainingLog

    ends: list[float] = []
    note_step = TrainingLog.step

    def step(self: TrainingLog, *args: Any, **more: Any) -> None:
        note_step(self, *args, **more)
        ends.append(time.perf_counter())

    TrainingLog.step = step  # type: ignore[method-assign]
    sys.argv = [str(PROGRAM), *flags]
    runpy.run_path(str(PROGRAM), run_name="__main__")
    if os.environ.get("RANK", "0") == "0":
        write_json(path, {"seconds": ends[-1] - ends[0], "steps": len(ends) - 1})


def measure(counts: list[int], num_rounds: int, flags: list[str]) -> dict[str, Any]:
    """Steps per second of every number of processes in every round, and the largest difference of logged losses."""
    speeds: dict[int, list[float]] = {count: [] for count in counts}
    losses: dict[int, list[float]] = {}
    for _ in range(num_rounds):
        for count in counts:
            with tempfile.TemporaryDirectory() as folder:
                output = Path(folder)
                launch(count, [*flags, "--output", str(output / "out")], output / TIMES_FILE)
                times = json.loads((output / TIMES_FILE).read_text())
                lines = [json.loads(line) for line in (output / "out" / "log.jsonl").read_text().splitlines()]
            speeds[count].append(times["steps"] / times["seconds"])
            losses[count] = [line["loss"] for line in lines]
    first = losses[counts[0]]
    gaps = {n: max((abs(a - b) for a, b in zip(first, of_n, strict=True)), default=0.0) for n, of_n in losses.items()}
    return {"steps_per_second": speeds, "largest_loss_difference": gaps, "cores": os.cpu_count(), "flags": flags}


def launch(count: int, flags: list[str], times: Path) -> None:
    """One trial."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
    command = [sys.executable, *launcher, str(Path(__file__)), "--dataset", ".", "--time-into", str(times), "--"]
    done = subprocess.run([*command, *flags], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"a trial of {count} processes failed:\n{done.stderr[-2000:]}")


def print_table(results: dict[str, Any]) -> None:
    """Markdown, with the spread over the rounds."""
    speeds = results["steps_per_second"]
    base = statistics.median(next(iter(speeds.values())))
    print("| processes | steps/s, median | lowest | highest | speed-up | largest difference of losses |")
    print("|---|---|---|---|---|---|")
    for count, values in speeds.items():
        median = statistics.median(values)
        gap = results["largest_loss_difference"][count]
        row = (count, f"{median:.2f}", f"{min(values):.2f}", f"{max(values):.2f}", f"{median / base:.2f}", f"{gap:.1e}")
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
