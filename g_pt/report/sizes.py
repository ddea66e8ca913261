"""One update against training at every size of a family, harvested or not.

B = networks, K = prompts.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import torch

from checkpoints_dataset.harvest import train_population
from g_pt.evaluation.statistics import bootstrap_mean, prompt_alignment, summary
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.prompting import measure_updates, update_networks
from g_pt.networks.training_facts import size_name
from g_pt.pictures.sections import save_sizes
from g_pt.report.section import Section, Subject, Table
from g_pt.tasks import is_family
from g_pt.tasks.family import Hidden, parse_hidden

NUM_NETWORKS, NUM_RUNS, NUM_PROMPTS = 128, 64, 8


def measure_sizes(subject: Subject, *, hidden: tuple[str, ...] = ()) -> Section | None:
    """The best prompt's update of unseen inits, runs of the same size, and the alignment; None for models of one size.

    `hidden` are the sizes; where not given, those harvested and one between each two neighbours of as many layers.
    """
    if not is_family(subject.pipeline.config.task):
        return None
    seen = [size.hidden for size in subject.pipeline.facts.sizes]
    sizes = parse_hidden(hidden, subject.generator("sizes")) or [*seen, *between(seen)]
    measured = {size: measure_size(subject, size) for size in sizes}
    name, other = subject.metric.name, [m for m in subject.task.metrics if m != subject.metric.name]
    rows, facts = [], []
    for size, found in measured.items():
        harvested, ratio = size in seen, found["update"][name].mean() / found["runs"][name].mean()
        values = [str(bootstrap_mean(found["update"][name])), str(bootstrap_mean(found["runs"][name])), f"{ratio:.3f}"]
        values += [f"{found[kind][m].mean():.2f}" for m in other for kind in ("update", "runs")]
        alignment = bootstrap_mean(found["alignment"])
        rows.append((size_name(size), "yes" if harvested else "no", *values, f"{alignment:.3f}"))
        facts.append(
            {
                "hidden": list(size), "harvested": harvested, "prompt": found["prompt"], "ratio": ratio.item(),
                "alignment": summary(found["alignment"]),
                **{f"{kind}_test_{m}": summary(v) for kind in ("update", "runs") for m, v in found[kind].items()},
            }
        )  # fmt: skip
    columns: tuple[str, ...] = ("hidden", "harvested", f"{name} after one update", f"{name} of trained runs", "ratio")
    columns += tuple(f"{m} {kind}" for m in other for kind in ("after one update", "of runs"))
    num = min(subject.num_networks, NUM_NETWORKS)
    title = f"{num} unseen inits and {NUM_RUNS} runs trained anew at each size, best prompt of the size, test split"
    return Section(
        name="sizes",
        title="Does it serve networks of every size?",
        facts={"sizes": facts},
        tables=(Table(title, (*columns, "alignment"), tuple(rows)),),
        notes=("The prompt is the best metric that runs attain, interpolated between sizes that were harvested.",),
        figures={"sizes.png": partial(save_sizes, facts, metric=subject.metric)},
    )


def between(seen: list[Hidden]) -> list[Hidden]:
    """Sizes between neighbours of as many layers, in order of their widths, that were not harvested."""
    found = []
    for depth in sorted({len(size) for size in seen}):
        alike = sorted((size for size in seen if len(size) == depth), key=lambda size: sum(size))
        for low, high in pairwise(alike):
            found.append(tuple(round((a * b) ** 0.5) for a, b in zip(low, high, strict=True)))
    return [size for size in dict.fromkeys(found) if size not in seen]


def measure_size(subject: Subject, size: Hidden) -> dict[str, Any]:
    """Test metrics of updates (B,) and of runs trained anew, and the alignment of each network (B,)."""
    words = size_name(size)
    subject.progress(f"hidden layers of {words}")
    pipeline, generator = subject.pipeline.member(size), subject.generator(f"sizes/{words}")
    starts = pipeline.task.init(min(subject.num_networks, NUM_NETWORKS), generator)
    prompts = pipeline.facts.prompts(min(subject.num_prompts, NUM_PROMPTS))
    steps = subject.num_inference_steps
    updated = update_networks(pipeline, starts, prompts, num_inference_steps=steps, generator=generator)
    achieved = measure_updates(pipeline.task, updated, "test")
    alignment = prompt_alignment(prompts, achieved[subject.metric.name])
    update = {name: values[:, 0] for name, values in achieved.items()}
    runs = trained_runs(subject, pipeline, generator)
    return {"prompt": prompts[0].item(), "update": update, "runs": runs, "alignment": alignment}


def trained_runs(
    subject: Subject, pipeline: ParameterUpdatePipeline, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Test metrics of networks of a size that are trained as the model's own runs were."""
    config, task = subject.harvest, pipeline.task
    trained = train_population(task, config, [0, config.num_steps], NUM_RUNS, generator, torch.Generator())
    found = task.evaluate(trained.params[:, -1].float(), "test")
    return {name: values.cpu() for name, values in found.items()}
