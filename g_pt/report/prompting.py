"""How the updates of a model follow prompts on networks it has never seen.

B = networks, K = prompts, P = parameters per network.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation.statistics import Interval, bootstrap_mean, prompt_alignment, rank_correlation, summary
from g_pt.model.prompting import measure_updates, prompt_grid, update_networks
from g_pt.networks.metrics import Metric
from g_pt.report.beside_runs import beside_runs, comparison_note, quality_table
from g_pt.report.section import Section, Subject, Table


@dataclass(frozen=True)
class PromptCurve:
    """Prompted against achieved over one range of prompts.

    Attributes:
        prompts: (K,), raw.
        achieved: (B, K) of the prompted metric on the test split.
    """

    prompts: Tensor
    achieved: Tensor

    @property
    def alignments(self) -> Tensor:
        """R² of each network against the identity line: (B,)."""
        return prompt_alignment(self.prompts, self.achieved)

    @property
    def alignment(self) -> Interval:
        """Their mean."""
        return bootstrap_mean(self.alignments)

    @property
    def rank_correlations(self) -> Tensor:
        """Spearman's correlation of each network: (B,)."""
        return rank_correlation(self.prompts, self.achieved)

    def to_json(self) -> dict[str, Any]:
        """Points of the curve."""
        return {
            "prompted": self.prompts.tolist(),
            "achieved_mean": self.achieved.mean(dim=0).tolist(),
            "alignment_per_network": [round(value, 5) for value in self.alignments.tolist()],
        }


def measure_prompting(subject: Subject, prompt_range: tuple[float, float] | None = None) -> Section:
    """Prompt fresh networks over two ranges, or three, and measure the results on the test split.

    The ranges are "attainable", from the runs' best metric to the init's, and "full", from the lowest to the highest
    metric of any training checkpoint; before them "asked" where a `prompt_range` of one's own is given. One update is
    that for the prompt of the first range, or the model's own best, with the best mean metric on the VALIDATION split.

    Raises:
        ValueError: the pipeline does not know the ranges of its training data, or too few networks or prompts.
    """
    if subject.num_networks < 2 or subject.num_prompts < 2:
        raise ValueError(
            f"at least 2 networks and 2 prompts are needed, got {subject.num_networks} and {subject.num_prompts}"
        )
    ranges, trained = (
        prompt_ranges(subject, prompt_range),
        subject.pipeline.facts.quality(f"test_{subject.metric.name}"),
    )
    started = time.perf_counter()
    task, metric = subject.task, subject.metric
    generator = torch.Generator().manual_seed(subject.seed)
    starts = task.init(subject.num_networks, generator)  # (B, P)
    curves: dict[str, PromptCurve] = {}
    one_update: dict[str, Any] = {}
    for name, (first, last) in ranges.items():
        subject.progress(f"{subject.num_prompts} prompts over the {name} range")
        prompts = prompt_grid(first, last, subject.num_prompts)
        asked = prompts if one_update else torch.cat([prompts, torch.tensor(subject.pipeline.facts.best_prompts)])
        updated = update_networks(
            subject.pipeline, starts, asked, num_inference_steps=subject.num_inference_steps, generator=generator
        )  # (B, K, P)
        achieved = measure_updates(task, updated, "test")
        curves[name] = PromptCurve(prompts, achieved[metric.name][:, : len(prompts)])
        if not one_update:
            best = int(metric.argbest(measure_updates(task, updated, "validation")[metric.name].mean(dim=0)))
            one_update = {"prompt": asked[best].item()}
            one_update |= {f"test_{m}": asdict(bootstrap_mean(values[:, best])) for m, values in achieved.items()}
            measurement = task.measurement(updated[:, best], "test")
            beside = beside_runs(subject, updated[:, best])
    facts = {
        "model": subject.model,
        "task": task.name,
        "metric": metric.name,
        "networks": subject.num_networks,
        "prompts": subject.num_prompts,
        "num_inference_steps": subject.num_inference_steps or subject.pipeline.config.num_inference_steps,
        "seed": subject.seed,
        "trained_runs": trained.to_json(),
        **({"measurement": measurement} if measurement else {}),
        "beside_runs": beside,
        "seconds": round(time.perf_counter() - started, 1),
        "prompt_alignment": {
            name: {**summary(curve.alignments), "range": [curve.prompts[0].item(), curve.prompts[-1].item()]}
            for name, curve in curves.items()
        },
        "rank_correlation": {name: summary(curve.rank_correlations) for name, curve in curves.items()},
        "one_update": one_update,
        "starting": {f"test_{m}": asdict(bootstrap_mean(v)) for m, v in task.evaluate(starts, "test").items()},
        "curve": {name: curve.to_json() for name, curve in curves.items()},
    }
    return Section(
        name="prompting",
        title="Does it follow prompts?",
        facts=facts,
        tables=(alignment_table(curves, facts), quality_table(facts, task)),
        notes=(
            "Alignment is R² against the identity line, for each network over all prompts: 1 is perfect, a constant "
            "answer has at most 0, and there is no lower bound. Rank correlation is Spearman's, 1 where a higher "
            "prompt always gave a higher metric.",
            "Prompts mean the validation split, achieved metrics are those of the test split, so the gap between the "
            "splits counts against alignment.",
            *([measurement_note(measurement)] if measurement else []),
            comparison_note(facts, task),
        ),
        figures={"prompting.png": partial(draw_prompt_curve, next(iter(curves.values())), facts, metric)},
    )


def prompt_ranges(subject: Subject, asked: tuple[float, float] | None) -> dict[str, tuple[float, float]]:
    """Ranges of prompts by name, each from its better end to its worse; the one that figures show comes first."""
    facts, metric = subject.pipeline.facts, subject.metric
    ranges = {} if asked is None else {"asked": metric.best_first(*sorted(asked))}
    return ranges | {"attainable": facts.attainable(), "full": metric.best_first(*facts.seen())}


def measurement_note(measurement: dict[str, Any]) -> str:
    """How policies were measured, and how exactly."""
    errors = ", ".join(f"{value:.3g} of {name}" for name, value in measurement["standard_error"].items())
    return (
        f"{measurement['episodes']} episodes per policy and prompt in {measurement['environment']} "
        f"({measurement['simulator']}), actions: {measurement['actions']}; mean standard error {errors}."
    )


def alignment_table(curves: dict[str, PromptCurve], facts: dict[str, Any]) -> Table:
    """One row per range of prompts."""
    rows = []
    for name, curve in curves.items():
        lowest, median = curve.alignments.quantile(torch.tensor([0.05, 0.5], dtype=torch.float64)).tolist()
        rows.append(
            (
                name,
                f"{curve.prompts[0]:.3g} to {curve.prompts[-1]:.3g}",
                f"{curve.alignment:.3f}",
                f"{median:.3f}, {lowest:.3f}",
                f"{bootstrap_mean(curve.rank_correlations):.3f}",
            )
        )
    return Table(
        f"prompt alignment: {facts['networks']} unseen inits, {facts['prompts']} prompts, "
        f"{facts['num_inference_steps']} sampling steps, test split",
        ("range", "prompts", "alignment", "median, 5 % quantile of networks", "rank correlation"),
        tuple(rows),
    )


def draw_prompt_curve(curve: PromptCurve, facts: dict[str, Any], metric: Metric, path: Path) -> None:
    """The prompt curve over the first range."""
    from g_pt.pictures.canvas import save_prompt_curve

    save_prompt_curve(
        curve.prompts.numpy(),
        curve.achieved.numpy(),
        path,
        metric=metric,
        alignment=curve.alignment.mean,
        best=facts["trained_runs"][f"test_{metric.name}"]["mean"],
        start=facts["starting"][f"test_{metric.name}"]["mean"],
    )
