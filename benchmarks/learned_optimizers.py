"""Losses that learned optimizers and tuned ones reach, on inits that no training saw, on the test split.

    python benchmarks/learned_optimizers.py --horizon 1000 --weights star small-fc --json runs/learned_1000.json
    python benchmarks/learned_optimizers.py --horizon 5000 --weights star --hand-made adam --tuned-at 1000

Adam and AdamW have the learning rate, schedule and weight decay that are best on the validation split after the
horizon (or after --tuned-at steps), on inits of their own. Means over inits and orders of the examples, with the
standard error over the inits; one thread, CPU seconds of a step of all networks.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g_pt.files.atomic import write_json
from g_pt.learned_optimizers.rules import StarRule
from g_pt.learned_optimizers.trained import TrainedOptimizer
from g_pt.runtime.cpu_memory import keep_freed_memory
from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks import get_task
from g_pt.tasks.base import Split, Task
from g_pt.update_rules.first_order import Adam, AdamW
from g_pt.update_rules.gradient import GradientRule, Schedule
from g_pt.update_rules.problem import follow

RATES = tuple(10 ** (-3 + 0.25 * k) for k in range(10))
DECAYS = {"adam": (0.0,), "adamw": (0.0, 0.1, 0.3, 1.0, 3.0)}  # times the rate
TUNING, TEST, ORDERS = range(3)  # streams
TUNING_NETWORKS = 8


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--horizon", type=int, default=1000)
    parser.add_argument("--weights", nargs="*", default=["star", "small-fc"], help="bundled names or files")
    parser.add_argument("--hand-made", nargs="*", choices=sorted(DECAYS), default=sorted(DECAYS))
    parser.add_argument("--tuned-at", type=int, help="steps that the hand-made ones are tuned for")
    parser.add_argument("--networks", type=int, default=64)
    parser.add_argument("--orders", type=int, default=4)
    parser.add_argument("--json", type=Path, help="where the numbers go, besides the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    task, found = get_task(args.task), {}
    print(f"{'optimizer':34}{'mean':>9}{'s.e.':>9}{'worst':>9}{'error %':>9}{'lost':>6}{'ms/step':>9}")
    for name in args.hand_made:
        rule, settings = tuned(task, name, args.tuned_at or args.horizon)
        found[f"{name} {settings}"] = measured(f"{name} {settings}", rule, task, args)
    for name in args.weights:
        found[name] = measured(name, StarRule(optimizer=TrainedOptimizer(name)), task, args)
    if args.json:
        write_json(args.json, {"task": args.task, "horizon": args.horizon, "found": found})


def ends(rule: Any, task: Task, starts: Tensor, horizon: int, order: int, split: Split) -> dict[str, Tensor]:
    """Metrics (B,) after the horizon."""
    generator = keyed_generator(ORDERS, order, horizon)
    ((params, _),) = follow(rule, task, starts, generator, steps=[horizon])
    return task.evaluate(params, split)


def tuned(task: Task, name: str, horizon: int) -> tuple[GradientRule, str]:
    """The best of a grid on the validation split, and what it is."""
    starts = task.init(TUNING_NETWORKS, keyed_generator(TUNING))
    best: tuple[float, GradientRule, str] | None = None
    schedules: tuple[Schedule, ...] = ("cosine", "constant")
    for schedule, decay in itertools.product(schedules, DECAYS[name]):
        optimizer = AdamW(weight_decay=decay) if name == "adamw" else Adam()
        rates = tuple(rate for rate in RATES for _ in range(TUNING_NETWORKS))
        rule = GradientRule(optimizer, rates, schedule=schedule)
        losses = ends(rule, task, starts.repeat(len(RATES), 1), horizon, 1000, "validation")["loss"]
        means = losses.nan_to_num(torch.inf).view(len(RATES), -1).mean(1)
        place = int(means.argmin())
        if best is None or means[place] < best[0]:
            chosen = GradientRule(optimizer, RATES[place], schedule=schedule)
            best = means[place].item(), chosen, f"{schedule} {RATES[place]:.3g} decay {decay:g}"
    assert best is not None
    return best[1:]


def measured(name: str, rule: GradientRule, task: Task, args: argparse.Namespace) -> dict[str, float]:
    """Test metrics of fresh inits, each in several orders of the examples; prints a line."""
    starts = task.init(args.networks, keyed_generator(TEST))
    began = time.process_time()
    runs = [ends(rule, task, starts, args.horizon, order, "test") for order in range(args.orders)]
    spent = (time.process_time() - began) / (args.orders * args.horizon)
    losses = torch.stack([run["loss"] for run in runs])
    errors = torch.stack([run.get("error", run["loss"]) for run in runs])
    each = losses.mean(dim=0)
    result = {
        "mean": losses.mean().item(),
        "standard_error": (each.std() / len(each) ** 0.5).item(),
        "worst": losses.max().item(),
        "error": errors.mean().item(),
        "lost": int((~losses.isfinite()).sum()),
        "ms": 1000 * spent,
    }
    numbers = [result[key] for key in ("mean", "standard_error", "worst", "error")]
    print(f"{name:34}" + "".join(f"{n:9.4f}" for n in numbers) + f"{result['lost']:6}{result['ms']:9.2f}", flush=True)
    return result


if __name__ == "__main__":
    main()
