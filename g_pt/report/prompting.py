"""The report on a model: how its updates follow prompts on networks it has never seen.

B = networks, K = prompts, P = parameters per network.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation.statistics import Interval, bootstrap_mean, prompt_alignment, rank_correlation, summary
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.prompting import measure_updates, prompt_grid, update_networks
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


@dataclass(frozen=True)
class Report:
    """What `gpt-evaluate` says.

    Attributes:
        curves: "attainable": prompts from the runs' best metric to the init's; "full": from the lowest to the
            highest metric of any training checkpoint; before them "asked", where a range of one's own was given.
        best_prompt: the prompt of the first range with the best mean metric on the VALIDATION split.
        one_update: `{test_<metric>: interval}` after one update at the best prompt.
        starting: the same before the update.
        facts: the rest of the JSON.
    """

    curves: dict[str, PromptCurve]
    best_prompt: float
    one_update: dict[str, Interval]
    starting: dict[str, Interval]
    facts: dict[str, Any]

    @property
    def main_curve(self) -> PromptCurve:
        """The curve that figures show."""
        return next(iter(self.curves.values()))

    def to_json(self) -> dict[str, Any]:
        """The content of `--json FILE`."""
        alignment = {
            name: {**summary(curve.alignments), "range": [curve.prompts[0].item(), curve.prompts[-1].item()]}
            for name, curve in self.curves.items()
        }
        points = {
            name: {
                "prompted": curve.prompts.tolist(),
                "achieved_mean": curve.achieved.mean(dim=0).tolist(),
                "alignment_per_network": [round(value, 5) for value in curve.alignments.tolist()],
            }
            for name, curve in self.curves.items()
        }
        return {
            **self.facts,
            "prompt_alignment": alignment,
            "rank_correlation": {name: summary(curve.rank_correlations) for name, curve in self.curves.items()},
            "one_update": {"prompt": self.best_prompt, **{k: asdict(v) for k, v in self.one_update.items()}},
            "starting": {name: asdict(value) for name, value in self.starting.items()},
            "curve": points,
        }


def evaluate_prompting(
    pipeline: ParameterUpdatePipeline,
    model: str,
    *,
    num_networks: int = 256,
    num_prompts: int = 20,
    seed: int = 0,
    num_inference_steps: int | None = None,
    prompt_range: tuple[float, float] | None = None,
    progress: Callable[[str], object] = lambda words: None,
) -> Report:
    """Prompt fresh networks over two ranges, or three, and measure the results on the test split.

    Args:
        pipeline: with the facts of its training.
        model: its name, for the report.
        num_networks: B, freshly initialised, never seen in training.
        num_prompts: K, evenly spaced over each range.
        seed: of the networks and the sampling noise.
        num_inference_steps: sampling steps; the pipeline's default where not given.
        prompt_range: a range of your own, which then comes first.
        progress: called with a few words before each range.

    Raises:
        ValueError: the pipeline does not know the ranges of its training data, or too few networks or prompts.
    """
    if num_networks < 2 or num_prompts < 2:
        raise ValueError(f"at least 2 networks and 2 prompts are needed, got {num_networks} and {num_prompts}")
    training = check_facts(pipeline, model)
    started = time.perf_counter()
    task, metric = pipeline.task, pipeline.metric
    generator = torch.Generator().manual_seed(seed)
    starts = task.init(num_networks, generator)  # (B, P)
    low, high = training["prompt_range"]
    ranges = {"attainable": training["attainable_range"], "full": metric.best_first(low, high)}
    if prompt_range is not None:
        ranges = {"asked": metric.best_first(*sorted(prompt_range)), **ranges}

    curves: dict[str, PromptCurve] = {}
    for name, (first, last) in ranges.items():
        progress(f"{num_prompts} prompts over the {name} range")
        prompts = prompt_grid(first, last, num_prompts)
        updated = update_networks(
            pipeline, starts, prompts, num_inference_steps=num_inference_steps, generator=generator
        )  # (B, K, P)
        achieved = measure_updates(task, updated, "test")
        curves[name] = PromptCurve(prompts, achieved[metric.name])
        if name == next(iter(ranges)):
            validation = measure_updates(task, updated, "validation")[metric.name].mean(dim=0)  # (K,)
            best = int(metric.argbest(validation))
            measurement = task.measurement(updated[:, best], "test")
            one_update = {f"test_{m}": bootstrap_mean(values[:, best]) for m, values in achieved.items()}
            best_prompt = prompts[best].item()

    starting = {f"test_{m}": bootstrap_mean(values) for m, values in task.evaluate(starts, "test").items()}
    facts = {
        "model": model,
        "task": task.name,
        "metric": metric.name,
        "networks": num_networks,
        "prompts": num_prompts,
        "num_inference_steps": num_inference_steps or pipeline.config.num_inference_steps,
        "seed": seed,
        "trained_runs": training["trained_runs"],
        **({"measurement": measurement} if measurement else {}),
        "seconds": round(time.perf_counter() - started, 1),
    }
    return Report(curves, best_prompt, one_update, starting, facts)


def check_facts(pipeline: ParameterUpdatePipeline, model: str) -> dict[str, Any]:
    """What the pipeline knows about its training data.

    Raises:
        ValueError: the ranges of its metric or the trained runs are missing.
    """
    training: dict[str, Any] = pipeline.config.training
    missing = {"prompt_range", "attainable_range", "trained_runs"} - set(training)
    if missing:
        raise ValueError(f"{model} does not say {sorted(missing)} of its training data: train it with this toolkit")
    return training


def measure_prompting(subject: Subject, prompt_range: tuple[float, float] | None = None) -> Section:
    """Prompted against achieved: the section with `evaluate_prompting`'s report."""
    report = evaluate_prompting(
        subject.pipeline,
        subject.model,
        num_networks=subject.num_networks,
        num_prompts=subject.num_prompts,
        seed=subject.seed,
        num_inference_steps=subject.num_inference_steps,
        prompt_range=prompt_range,
        progress=subject.progress,
    )
    measurement = report.facts.get("measurement")
    return Section(
        name="prompting",
        title="Does it follow prompts?",
        facts=report.to_json(),
        tables=(alignment_table(report), quality_table(report)),
        notes=(
            "Alignment is R² against the identity line, for each network over all prompts: 1 is perfect, a constant "
            "answer has at most 0, and there is no lower bound. Rank correlation is Spearman's, 1 where a higher "
            "prompt always gave a higher metric.",
            "Prompts mean the validation split, achieved metrics are those of the test split, so the gap between the "
            "splits counts against alignment.",
            *([measurement_note(measurement)] if measurement else []),
        ),
        figures={"prompting.png": partial(draw_prompt_curve, report, subject.pipeline)},
    )


def measurement_note(measurement: dict[str, Any]) -> str:
    """How policies were measured, and how exactly."""
    errors = ", ".join(f"{value:.3g} of {name}" for name, value in measurement["standard_error"].items())
    return (
        f"{measurement['episodes']} episodes per policy and prompt in {measurement['environment']} "
        f"({measurement['simulator']}), actions: {measurement['actions']}; mean standard error {errors}."
    )


def alignment_table(report: Report) -> Table:
    """One row per range of prompts."""
    rows = []
    for name, curve in report.curves.items():
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
    facts = report.facts
    return Table(
        f"prompt alignment: {facts['networks']} unseen inits, {facts['prompts']} prompts, "
        f"{facts['num_inference_steps']} sampling steps, test split",
        ("range", "prompts", "alignment", "median, 5 % quantile of networks", "rank correlation"),
        tuple(rows),
    )


def quality_table(report: Report) -> Table:
    """Before, after one update, and what training reached."""
    metrics = list(report.one_update)
    trained = report.facts["trained_runs"]
    return Table(
        f"one update: {report.facts['networks']} unseen inits, test split",
        ("networks", *(m.replace("_", " ") for m in metrics)),
        (
            ("before", *(str(report.starting[m]) for m in metrics)),
            (f"one update, prompt {report.best_prompt:.3g}", *(str(report.one_update[m]) for m in metrics)),
            ("trained runs, held out", *(f"{trained[m]['mean']:.4g}" for m in metrics)),
        ),
    )


def draw_prompt_curve(report: Report, pipeline: ParameterUpdatePipeline, path: Path) -> None:
    """The prompt curve over the first range."""
    from g_pt.pictures.canvas import save_prompt_curve

    curve, metric = report.main_curve, pipeline.metric
    save_prompt_curve(
        curve.prompts.numpy(),
        curve.achieved.numpy(),
        path,
        metric=metric.name,
        unit=metric.unit,
        alignment=curve.alignment.mean,
        best=report.facts["trained_runs"][f"test_{metric.name}"]["mean"],
        start=report.starting[f"test_{metric.name}"].mean,
    )
