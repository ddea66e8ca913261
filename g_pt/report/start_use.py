"""Does the model use its start, or would any network do?

B = networks, K = prompts, P = parameters per network.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation.novelty.nearest import NetworkDistance
from g_pt.evaluation.novelty.start_identity import StartIdentity, start_identity
from g_pt.evaluation.statistics import Interval, bootstrap_mean, prompt_alignment
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.prompting import SAMPLING_BATCH, measure_updates
from g_pt.report.section import Section, Subject, Table

NETWORKS = 128
PROMPTS = 10


@dataclass(frozen=True)
class Answers:
    """How B networks answered K prompts.

    Attributes:
        alignment: mean R² of achieved against prompted.
        achieved: mean of the prompted metric at the best prompt, test split.
        gap: mean absolute gap to the prompt on the metric's own scale (log for losses), all prompts.
        results: (B, P) at the best prompt.
    """

    alignment: Interval
    achieved: Interval
    gap: Interval
    results: Tensor

    def to_json(self) -> dict[str, Any]:
        """All but the networks."""
        return {name: asdict(getattr(self, name)) for name in ("alignment", "achieved", "gap")}


def measure_start_use(subject: Subject) -> Section | None:
    """Compare results with their own and other starts, and mix up who starts where.

    None where the pipeline does not know the attainable range of its metric.
    """
    pipeline, task = subject.pipeline, subject.pipeline.task
    if pipeline.facts.attainable_range is None:
        return None
    generator = subject.generator("start use")
    distance = NetworkDistance(task.layout, task.permutations)
    num = min(NETWORKS, subject.num_networks)
    prompts = pipeline.facts.prompts(min(PROMPTS, subject.num_prompts))
    groups = {"fresh inits": task.init(num, generator)}
    if (
        subject.runs is not None and len(subject.runs.held_out.trajectories) > 1
    ):  # starts of every quality, so that metric and prompt fit one network only
        groups["held-out checkpoints"] = one_of_each_run(subject.runs.held_out.trajectories, num, generator)

    identities: dict[str, StartIdentity] = {}
    facts: dict[str, Any] = {"prompts": prompts.tolist(), "starts": {}}
    control: list[tuple[str, ...]] = []
    for name, starts in groups.items():
        subject.progress(f"use of the start, {name}")
        metric = task.evaluate(starts, "validation")[pipeline.metric.name]
        seed = int(torch.randint(2**31, (), generator=generator))  # the same sampling noise for both
        shift = torch.arange(len(starts)).roll(1)
        own, shuffled = (
            answers(pipeline, params, metric, prompts, subject.num_inference_steps, seed)
            for params in (starts, starts[shift])
        )
        identities[f"G.pt, {name}"] = start_identity(starts, own.results, distance, generator)
        facts["starts"][name] = {
            "networks": len(starts),
            "own": own.to_json(),
            "shuffled": shuffled.to_json(),
            "own_start_to_shuffled_result": asdict(bootstrap_mean(distance.pairs(shuffled.results, starts))),
        }
        for kind, found in (("own parameters", own), ("another's parameters", shuffled)):
            control.append((f"{name}, {kind}", str(found.alignment), str(found.achieved), str(found.gap)))
    if subject.runs is not None:
        held_out = subject.runs.held_out
        identities["training, held-out runs"] = start_identity(
            held_out.starts[:num], held_out.ends[:num], distance, generator
        )
    facts["identity"] = {name: identity_facts(found) for name, found in identities.items()}
    return Section(
        name="start_use",
        title="Does it use the start?",
        facts=facts,
        tables=(identity_table(facts["identity"]), control_table(control, len(prompts), pipeline)),
        notes=(
            "Identified: share of results whose own start is the nearest of all; chance is one over their number. "
            "Matched: over all orders of units. A sampler that ignores its start has equal distances.",
            "Another's parameters: the model is given metric and prompts of one network and the parameters of another. "
            "Fresh inits have about the same metric, so that this changes little; checkpoints have not.",
        ),
    )


def one_of_each_run(trajectories: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """A random checkpoint of each of some runs, (T, C, P) to (num, P), or (T, P) where there are fewer runs."""
    runs = torch.randperm(len(trajectories), generator=generator)[:num]
    return trajectories[runs, torch.randint(trajectories.shape[1], (len(runs),), generator=generator)]


def answers(
    pipeline: ParameterUpdatePipeline,
    params: Tensor,
    metric: Tensor,
    prompts: Tensor,
    num_inference_steps: int | None,
    seed: int,
) -> Answers:
    """Prompt networks (B, P), telling the model that they have some metric (B,), which need not be theirs."""
    generator = torch.Generator().manual_seed(seed)
    num_networks, num_prompts = len(params), len(prompts)
    repeated = params.repeat_interleave(num_prompts, dim=0)  # (B*K, P)
    starting, wanted = metric.repeat_interleave(num_prompts), prompts.repeat(num_networks)
    parts = zip(*(t.split(SAMPLING_BATCH) for t in (repeated, wanted, starting)), strict=True)
    sampled = [
        pipeline(p, w, s, num_inference_steps=num_inference_steps, generator=generator).params for p, w, s in parts
    ]
    updated = torch.cat(sampled).view(num_networks, num_prompts, -1)
    achieved = measure_updates(pipeline.task, updated, "test")[pipeline.metric.name]  # (B, K)
    scale = pipeline.metric.embedded
    return Answers(
        alignment=bootstrap_mean(prompt_alignment(prompts, achieved)),
        achieved=bootstrap_mean(achieved[:, 0]),
        gap=bootstrap_mean((scale(achieved) - scale(prompts)).abs().mean(dim=1)),
        results=updated[:, 0],
    )


def identity_facts(found: StartIdentity) -> dict[str, Any]:
    """Means with intervals, and how much nearer the own start is."""
    means = {name: asdict(bootstrap_mean(values)) for name, values in vars(found).items()}
    ratios = {
        "own_over_other": asdict(bootstrap_mean(found.own / found.other)),
        "own_over_other_matched": asdict(bootstrap_mean(found.own_matched / found.other_matched)),
    }
    return {"networks": len(found.own), **means, **ratios}


def identity_table(rows: dict[str, dict[str, Any]]) -> Table:
    """Distances and identification."""
    columns = {
        "to own start": "own",
        "to another start": "other",
        "matched: own": "own_matched",
        "matched: another": "other_matched",
        "identified": "identified",
        "identified, matched": "identified_matched",
    }
    cells = tuple(
        (f"{name} ({row['networks']})", *(str(Interval(**row[key])) for key in columns.values()))
        for name, row in rows.items()
    )
    return Table("Distance from start to result, best prompt", ("start to result (networks)", *columns), cells)


def control_table(rows: list[tuple[str, ...]], num_prompts: int, pipeline: ParameterUpdatePipeline) -> Table:
    """Update after the start's parameters were swapped for those of another network."""
    metric = pipeline.metric
    scale = "" if metric.transform == "identity" else f" in {metric.transform}"
    return Table(
        f"Metric and {num_prompts} prompts of one network with the parameters of another, test split",
        ("start", "alignment", f"{metric.name} at the best prompt", f"gap to the prompt{scale}"),
        tuple(rows),
    )
