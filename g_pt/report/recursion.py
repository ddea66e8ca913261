"""Prompting again and again: every update is the next start, for the same prompt.

B = networks, K = prompts, P = parameters per network, U = numbers of updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation.statistics import Interval, bootstrap_mean, prompt_alignment, rank_correlation, summary
from g_pt.model.prompting import measure_updates, update_repeatedly
from g_pt.report.section import Section, Subject, Table

NUM_NETWORKS, NUM_PROMPTS = 64, 10
AFTER = (1, 2, 5, 10)  # updates


@dataclass(frozen=True)
class Recursion:
    """Metrics of networks after repeated updates.

    Attributes:
        prompts: (K,), raw.
        starting: (B,) prompted metric before, test split.
        achieved: `{number of updates: {metric: (B, K)}}`, test split.
        best: the column whose metric on the VALIDATION split is best after the first update.
    """

    prompts: Tensor
    starting: Tensor
    achieved: dict[int, dict[str, Tensor]]
    best: int


def follow_prompts(
    subject: Subject, starts: Tensor, prompts: Tensor, generator: torch.Generator, after: tuple[int, ...] = AFTER
) -> Recursion:
    """Update each start (B, P) repeatedly for each prompt (K,), both raw, and measure after some of the updates."""
    name, task = subject.metric.name, subject.task
    updates = update_repeatedly(
        subject.pipeline, starts, prompts, num_inference_steps=subject.num_inference_steps, generator=generator
    )
    achieved, best = {}, 0
    for number, updated in enumerate(islice(updates, max(after)), start=1):
        if number == 1:
            best = int(subject.metric.argbest(measure_updates(task, updated, "validation")[name].mean(dim=0)))
        if number in after:
            achieved[number] = measure_updates(task, updated, "test")
    return Recursion(prompts, task.evaluate(starts, "test")[name], achieved, best)


def measure_recursion(subject: Subject) -> Section:
    """Alignment, rank correlation and the best metric after 1, 2, 5 and 10 updates of fresh networks."""
    generator = subject.generator("recursion")
    starts = subject.task.init(min(subject.num_networks, NUM_NETWORKS), generator)
    prompts = subject.attainable_prompts(min(subject.num_prompts, NUM_PROMPTS))
    subject.progress(f"{max(AFTER)} updates, one after the other")
    found = follow_prompts(subject, starts, prompts, generator)
    name = subject.metric.name
    per_update: dict[str, Any] = {}
    rows = []
    for number, metrics in found.achieved.items():
        values = {
            "alignment": prompt_alignment(prompts, metrics[name]),
            "rank_correlation": rank_correlation(prompts, metrics[name]),
            **{f"test_{m}": v[:, found.best] for m, v in metrics.items()},
        }
        per_update[str(number)] = {key: summary(v) for key, v in values.items()}
        intervals: list[Interval] = [bootstrap_mean(v) for v in values.values()]
        rows.append((str(number), *(f"{interval:.3f}" for interval in intervals)))
    return Section(
        name="recursion",
        title="What do further prompts do?",
        facts={"prompts": prompts.tolist(), "best_prompt": prompts[found.best].item(), "updates": per_update},
        tables=(
            Table(
                f"repeated updates: {len(starts)} unseen inits, {len(prompts)} prompts; metrics at prompt "
                f"{prompts[found.best].item():.3g}; test split",
                ("updates", "alignment", "rank correlation", *(f"test {m}" for m in found.achieved[1])),
                tuple(rows),
            ),
        ),
        notes=("Each update is the next start, its metric measured anew on the validation split.",),
        figures={"recursion.png": partial(draw_recursion, subject, found)},
    )


def draw_recursion(subject: Subject, found: Recursion, path: Path) -> None:
    """Achieved metric over the number of updates, one line per prompt."""
    from g_pt.pictures.sections import save_recursion

    name, updates = subject.metric.name, (0, *found.achieved)
    means = [found.starting.mean().expand(len(found.prompts)), *(v[name].mean(dim=0) for v in found.achieved.values())]
    save_recursion(updates, torch.stack(means, dim=1), found.prompts, path, subject.metric)
