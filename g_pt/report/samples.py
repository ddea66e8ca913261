"""Several samples for one start and one prompt: how far apart they are, and what choosing among them brings.

B = networks, S = samples of each, K = prompts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation.statistics import best_of, bootstrap_mean, summary
from g_pt.model.prompting import measure_updates, update_networks
from g_pt.report.section import Section, Subject, Table

NUM_NETWORKS, NUM_PROMPTS, NUM_SAMPLES = 64, 5, 16
SIZES = (1, 2, 4, 8, 16)


def measure_samples(subject: Subject) -> Section:
    """Spread of the achieved metric over samples, and the best of K chosen on the validation split."""
    generator = subject.generator("samples")
    starts = subject.task.init(min(subject.num_networks, NUM_NETWORKS), generator)
    subject.progress(f"{NUM_SAMPLES} samples of each start")
    spreads, spread_rows = spread_over_prompts(subject, starts[: max(2, len(starts) // 4)], generator)
    best = subject.best_prompt
    chosen, best_rows = best_of_samples(subject, starts, best, generator)
    name = subject.metric.name
    return Section(
        name="samples",
        title="What do several samples bring?",
        facts={"samples": NUM_SAMPLES, "spread": spreads, "best_of": {"prompt": best, **chosen}},
        tables=(
            Table(
                f"{NUM_SAMPLES} samples for each start: {spreads[0]['within']['networks']} unseen inits, test split",
                ("prompt", f"{name}", "standard deviation within a start", "between starts"),
                tuple(spread_rows),
            ),
            Table(
                f"best of K samples, chosen on the validation split: {len(starts)} unseen inits, prompt {best:.3g}, "
                "test split",
                ("K", *(f"test {m}" for m in subject.task.metrics)),
                tuple(best_rows),
            ),
        ),
        notes=("The spread between starts is that of the starts' mean metrics.",),
    )


def draw_samples(subject: Subject, starts: Tensor, prompt: float, generator: torch.Generator) -> Tensor:
    """Samples (B, S, P) of each start (B, P) for one prompt."""
    return update_networks(
        subject.pipeline,
        starts,
        torch.full((NUM_SAMPLES,), prompt),
        num_inference_steps=subject.num_inference_steps,
        generator=generator,
    )


def spread_over_prompts(
    subject: Subject, starts: Tensor, generator: torch.Generator
) -> tuple[list[dict[str, Any]], list[tuple[str, ...]]]:
    """Standard deviations of the metric for some prompts: facts and table rows."""
    facts: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = []
    for prompt in subject.attainable_prompts(NUM_PROMPTS).tolist():
        samples = draw_samples(subject, starts, prompt, generator)
        achieved = measure_updates(subject.task, samples, "test")[subject.metric.name]  # (B, S)
        means, within = achieved.mean(dim=1), achieved.std(dim=1)
        between = means.std().item()
        facts.append({"prompt": prompt, "mean": summary(means), "within": summary(within), "between": between})
        rows.append((f"{prompt:.3g}", str(bootstrap_mean(means)), f"{bootstrap_mean(within):.3g}", f"{between:.3g}"))
    return facts, rows


def best_of_samples(
    subject: Subject, starts: Tensor, prompt: float, generator: torch.Generator
) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    """Test metrics of the sample that is best on the validation split: facts and table rows."""
    samples = draw_samples(subject, starts, prompt, generator)
    validation = measure_updates(subject.task, samples, "validation")[subject.metric.name]
    test = measure_updates(subject.task, samples, "test")
    facts, rows = {}, []
    for size in SIZES:
        values = {f"test_{m}": best_of(validation, v, size, subject.metric) for m, v in test.items()}
        facts[str(size)] = {m: summary(v) for m, v in values.items()}
        rows.append((str(size), *(str(bootstrap_mean(v)) for v in values.values())))
    return facts, rows
