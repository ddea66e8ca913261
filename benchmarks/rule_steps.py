"""Steps and seconds of every rule to the test loss that tuned Adam has after 200 steps.

    python benchmarks/rule_steps.py --json runs/rule_steps.json
    python benchmarks/rule_steps.py --rules foof --steps 200

Adam's target is the better of a constant and a cosine schedule. Learning rates (and the damping of rules that have one)
are tuned on the validation split, for every rule on the same networks of its own: around the rule's default, 3 rates
per decade, 3 dampings. What counts is the first step at which the mean validation loss is at Adam's. Then fresh
networks in several orders of mini-batches are measured on the test split.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation.statistics import bootstrap_mean
from g_pt.files.atomic import write_json
from g_pt.tasks import get_task
from g_pt.tasks.base import Split, Task
from g_pt.update_rules.problem import follow
from g_pt.update_rules.registry import RULES, make_rule

RATES = [10 ** (k / 3) for k in range(-4, 5)]  # times the default
DAMPINGS = [0.1, 1.0, 10.0]
TUNING, TESTING, ORDERS, EVERY = 12, 64, 4, 5


def main() -> None:
    """Tune, measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in RULES if name != "g-pt"]
    parser.add_argument("--task", default="digits")
    parser.add_argument("--rules", nargs="+", choices=known, default=known)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path, help="where the numbers go, besides the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    task, steps = get_task(args.task), list(range(EVERY, args.steps + 1, EVERY))
    adams = [tuned("adam", schedule, task, steps, None) for schedule in ("constant", "cosine")]
    target, adam, schedule = min((loss, rule, s) for (loss, rule), s in zip(adams, ("constant", "cosine"), strict=True))
    losses, _ = tested(adam, task, steps)
    wanted = losses[:, -1].mean().item()
    print(
        f"Adam, {schedule}, rate {adam.learning_rate:.3g}: {bootstrap_mean(losses[:, -1]):.4f} after {steps[-1]} steps"
    )
    print(f"{'rule':20}{'rate':>9}{'damping':>9}{'steps':>7}{'seconds':>9}{'ms/step':>9}{'loss at end':>13}")
    results: dict[str, Any] = {}
    for name in args.rules:
        _, rule = tuned(name, "constant", task, steps, target)
        losses, seconds = tested(rule, task, steps)
        reached = [step for step, loss in zip(steps, losses.mean(dim=0).tolist(), strict=True) if loss <= wanted]
        first = reached[0] if reached else None
        inner = getattr(rule, "inner", rule)
        results[name] = {
            "learning_rate": inner.learning_rate, "damping": getattr(rule, "damping", None), "steps": first,
            "seconds_per_step": seconds, "test_loss": losses.mean(dim=0).tolist(),
        }  # fmt: skip
        took = f"> {steps[-1]}" if first is None else str(first)
        spent = "" if first is None else f"{first * seconds:.2f}"
        damping = "" if not hasattr(rule, "damping") else f"{rule.damping:.3g}"
        print(f"{name:20}{inner.learning_rate:9.3g}{damping:>9}{took:>7}{spent:>9}{1000 * seconds:9.1f}"
              f"{losses[:, -1].mean().item():13.4f}", flush=True)  # fmt: skip
    if args.json:
        write_json(args.json, {"task": args.task, "steps": steps, "target": wanted, "rules": results})


def tuned(name: str, schedule: str, task: Task, steps: list[int], target: float | None) -> tuple[float, Any]:
    """Settings that reach a validation loss first, or have the lowest one at the end; that loss, and the rule."""
    rule = make_rule(name)
    settings: list[dict[str, Any]] = [{"learning_rate": factor} for factor in RATES]
    if hasattr(rule, "damping"):
        settings = [{**s, "damping": factor} for s, factor in product(settings, DAMPINGS)]
    starts = task.init(TUNING, torch.Generator().manual_seed(1))
    each = {key: tuple(s[key] for s in settings for _ in range(TUNING)) for key in settings[0]}
    grid = changed(rule, schedule, lambda key, value: tuple(value * factor for factor in each[key]), each)
    losses = curves(grid, task, starts.repeat(len(settings), 1), steps, "validation", seed=2)
    means = losses.view(len(settings), TUNING, -1).mean(dim=1).nan_to_num(torch.inf)  # (settings, S)
    reached = (means <= (-1 if target is None else target)).double().cumsum(dim=1).gt(0).sum(dim=1)  # steps after it
    best = int((means[:, -1] - 1e6 * reached).argmin())
    return means[best, -1].item(), changed(rule, schedule, lambda key, value: value * settings[best][key], each)


def changed(rule: Any, schedule: str, change: Callable[[str, float], Any], keys: dict[str, Any]) -> Any:
    """A rule, or the rule that it wraps, with settings changed."""
    if hasattr(rule, "inner"):
        return replace(rule, inner=changed(rule.inner, schedule, change, keys))
    return replace(rule, schedule=schedule, **{key: change(key, getattr(rule, key)) for key in keys})


def curves(rule: Any, task: Task, starts: Tensor, steps: list[int], split: Split, seed: int) -> Tensor:
    """Losses (B, S) after each number of steps."""
    path = follow(rule, task, starts, torch.Generator().manual_seed(seed), steps=steps)
    return torch.stack([task.evaluate(params, split)["loss"] for params, _ in path], dim=1)


def tested(rule: Any, task: Task, steps: list[int]) -> tuple[Tensor, float]:
    """Test losses (B, S) of fresh networks, and seconds of a step of all of them at once."""
    starts = task.init(TESTING, torch.Generator().manual_seed(3))
    parts = [curves(rule, task, some, steps, "test", seed=4 + k) for k, some in enumerate(starts.chunk(ORDERS))]
    path = follow(rule, task, starts, torch.Generator().manual_seed(3), steps=range(10, 91, 40))
    moments = [TESTING * cost.seconds for _, cost in path]
    return torch.cat(parts), median((after - before) / 40 for before, after in pairwise(moments))


if __name__ == "__main__":
    main()
