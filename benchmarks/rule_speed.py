"""How much faster a step of many networks at once is than steps of the same rule, network by network.

    python benchmarks/rule_speed.py --json runs/rule_speed.json
    python benchmarks/rule_speed.py --rules adam foof --networks 100 --rounds 5

Both sides run the rule with its default settings, on one thread, on the same task and mini-batches of the same size;
the first steps, which are slower, do not count. The sides alternate within each round. Prints milliseconds of a step
for each network and the median ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
from itertools import islice
from pathlib import Path

import torch

from g_pt.files.atomic import write_json
from g_pt.runtime.cpu_memory import keep_freed_memory
from g_pt.tasks import get_task
from g_pt.tasks.base import Task
from g_pt.update_rules.problem import follow
from g_pt.update_rules.registry import RULES, make_rule

WARM_UP, STEPS = 3, 40  # a multiple of the steps from one inverse, or from one jump, to the next


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in RULES if name != "g-pt"]
    parser.add_argument("--task", default="digits")
    parser.add_argument("--rules", nargs="+", choices=known, default=known)
    parser.add_argument("--networks", type=int, default=500, help="B, at once")
    parser.add_argument("--alone", type=int, default=4, help="networks one by one, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the numbers go, besides the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as gpt-harvest does
    task, results = get_task(args.task), {}
    print(f"{'rule':20}{'at once, ms':>14}{'one by one, ms':>16}{'times faster':>14}")
    for name in args.rules:
        rounds = []
        for _ in range(args.rounds):
            together = milliseconds(name, task, args.networks)
            rounds.append((together, statistics.mean(milliseconds(name, task, 1) for _ in range(args.alone))))
        together, alone = (statistics.median(side) for side in zip(*rounds, strict=True))
        ratio = statistics.median(slow / fast for fast, slow in rounds)
        results[name] = {"together_ms": together, "alone_ms": alone, "ratio": ratio, "rounds": rounds}
        print(f"{name:20}{together:14.4f}{alone:16.3f}{ratio:14.1f}", flush=True)
    if args.json:
        write_json(args.json, {"task": args.task, "networks": args.networks, "rules": results})
        print(json.dumps({name: round(found["ratio"], 1) for name, found in results.items()}))


def milliseconds(name: str, task: Task, num_networks: int) -> float:
    """Mean time of a step for each network."""
    starts = task.init(num_networks, torch.Generator().manual_seed(0))
    steps = [WARM_UP, WARM_UP + STEPS]
    path = follow(make_rule(name), task, starts, torch.Generator().manual_seed(0), steps=steps)
    before, after = (cost.seconds for _, cost in islice(path, 2))
    return 1000 * (after - before) / STEPS


if __name__ == "__main__":
    main()
