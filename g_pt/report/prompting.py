"""The report on a model: how its updates follow prompts on networks it has never seen.

B = networks, K = prompts, P = parameters per network.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation import Interval, bootstrap_mean, prompt_alignment
from g_pt.pipeline import ParameterUpdatePipeline
from g_pt.prompting import measure_updates, prompt_grid, update_networks


@dataclass(frozen=True)
class PromptCurve:
    """Prompted against achieved over one range of prompts.

    Attributes:
        prompts: (K,), raw.
        achieved: (B, K) of the prompted metric on the test split.
        alignment: mean R² against the identity line.
    """

    prompts: Tensor
    achieved: Tensor
    alignment: Interval


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
            name: {**asdict(curve.alignment), "range": [curve.prompts[0].item(), curve.prompts[-1].item()]}
            for name, curve in self.curves.items()
        }
        points = {
            name: {"prompted": curve.prompts.tolist(), "achieved_mean": curve.achieved.mean(dim=0).tolist()}
            for name, curve in self.curves.items()
        }
        return {
            **self.facts,
            "prompt_alignment": alignment,
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

    Raises:
        ValueError: the pipeline does not know the ranges of its training data, or too few networks or prompts.
    """
    if num_networks < 2 or num_prompts < 2:
        raise ValueError(f"at least 2 networks and 2 prompts are needed, got {num_networks} and {num_prompts}")
    training = pipeline.config.training
    missing = {"prompt_range", "attainable_range", "trained_runs"} - set(training)
    if missing:
        raise ValueError(f"{model} does not say {sorted(missing)} of its training data: train it with this toolkit")
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
        prompts = prompt_grid(first, last, num_prompts)
        updated = update_networks(
            pipeline, starts, prompts, num_inference_steps=num_inference_steps, generator=generator
        )  # (B, K, P)
        achieved = measure_updates(task, updated, "test")
        alignment = bootstrap_mean(prompt_alignment(prompts, achieved[metric.name]))
        curves[name] = PromptCurve(prompts, achieved[metric.name], alignment)
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
