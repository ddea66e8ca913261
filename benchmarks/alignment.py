"""Gains, costs and needs of alignment: short trainings of both stages, compared on held-out inits.

    python -m benchmarks.alignment --study stages --minutes 8
    python -m benchmarks.alignment --study weights --base runs/digits/loss/base --minutes 3
    python -m benchmarks.alignment --study steps --models runs/digits/loss/base runs/digits/loss/pipeline
    python -m benchmarks.alignment --study teacher --base digits-loss --minutes 3
    python -m benchmarks.alignment --study distilled

Settings are those of the task's preset. Studies: `stages` divides the same time between denoising and alignment,
`runs` does both on fewer runs; `weights` (how much of the denoising loss is kept), `gradients` (exact, or estimated)
and `teacher` (how many runs teach, noise, penalty) align one trained model, `--base`; `distilled` teaches single
networks the same by ordinary steps; `steps`, `diversity` and `beyond` (prompts below the best loss) measure `--models`.
Everything is measured on fresh inits and the VALIDATION split, `distilled` on the test split. Finished variants are not
repeated. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablations import (
    PRESETS,
    Preset,
    Variant,
    interval_cells,
    measure,
    pair_sampler,
    scale_and_facts,
    seconds_per_step,
    settings,
    slug,
    train,
    with_steps,
)
from checkpoints_dataset.store import CheckpointStore
from g_pt.evaluation.diversity import measure_diversity
from g_pt.evaluation.novelty.nearest import NearestNetworks, NetworkDistance
from g_pt.evaluation.statistics import bootstrap_mean
from g_pt.files.atomic import read_json, write_json
from g_pt.files.config import merge
from g_pt.files.yaml_files import read_yaml
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.prompting import measure_updates, update_networks
from g_pt.tasks import get_task
from g_pt.training.alignment import align
from g_pt.training.config import TrainConfig
from g_pt.training.setup import make_model, make_pipeline
from g_pt.training.teacher import Teacher, teachable

NUM_STEPS = (1, 2, 3, 5, 10, 20)
TRIAL_STEPS = 12
NOVELTY_NETWORKS, NOVELTY_RUNS = 32, 1000


@dataclass(frozen=True)
class Training:
    """Share of the time for denoising, the rest being for alignment; what differs from the preset."""

    denoising: float = 0.6
    alignment: dict[str, Any] = field(default_factory=dict)
    diffusion: dict[str, Any] = field(default_factory=dict)
    max_runs: int | None = None


STUDIES: dict[str, dict[str, Training]] = {
    "stages": {
        "denoising alone": Training(1.0),
        "alignment alone, from random weights": Training(0.0, {"diffusion_weight": 0.0, "checkpoint_share": 0.0}),
        "alignment alone, starting from checkpoints too": Training(0.0, {"diffusion_weight": 0.0}),
        "both": Training(),
        "both, behavioural loss 0.02": Training(diffusion={"behavioural_weight": 0.02}),
    },
    "runs": {f"{num} runs": Training(max_runs=num) for num in (10, 30, 120, 1000)},
    "weights": {f"denoising weight {w:g}": Training(0.0, {"diffusion_weight": w}) for w in (0.0, 0.1, 1.0, 10.0)},
    "gradients": {
        "exact": Training(0.0),
        **{
            f"evolution, {pairs} pairs, noise {noise:g}": Training(
                0.0, {"gradient": "evolution", "evolution_pairs": pairs, "evolution_noise": noise}
            )
            for pairs, noise in ((4, 0.1), (8, 0.03), (8, 0.1), (8, 0.3), (32, 0.1))
        },
    },
    "teacher": {
        "the preset's": Training(0.0),
        "labels, as without a teacher": Training(0.0, {"teacher_runs": 0}),
        **{f"mean answer, {weight:g}": Training(0.0, {"teacher_weight": weight}) for weight in (0.25, 0.5, 1.0)},
        **{
            f"mean answer of {num}": Training(0.0, {"teacher_runs": num, "teacher_weight": 1.0})
            for num in (1, 4, 16, 64, 256, 1024)
        },
        **{f"noise {noise:g}": Training(0.0, {"teacher_noise": noise}) for noise in (0.0, 0.15, 0.5)},
        **{f"penalty {weight:g}": Training(0.0, {"teacher_penalty": weight}) for weight in (0.0, 0.025, 0.1)},
        **{f"denoising weight {w:g}": Training(0.0, {"diffusion_weight": w}) for w in (0.0, 0.1)},
    },
}
DISTILLED_STEPS, DISTILLED_RATES, DISTILLED_NETWORKS = (400, 4000), (1e-3, 3e-3, 1e-2), 64


def main() -> None:
    """Train what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=[*STUDIES, "steps", "diversity", "beyond", "distilled"], required=True)
    parser.add_argument("--task", default="digits", help="a task with a preset of its name")
    parser.add_argument("--minutes", type=float, default=5.0, help="time of every training")
    parser.add_argument("--steps", type=int, help="of the last stage, in place of the minutes")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--base", type=Path, help="a trained pipeline, for weights, gradients and teacher")
    parser.add_argument("--models", nargs="*", default=[], help="pipelines, for steps, diversity and beyond")
    parser.add_argument("--only", nargs="*", help="variants of the study; all where not given")
    parser.add_argument("--out", type=Path, help="runs/<task>/alignment-<study> where not given")
    args = parser.parse_args()
    if args.study in STUDIES:
        out = args.out or Path("runs") / args.task / f"alignment-{args.study}" / (str(args.seed) if args.seed else "")
        variants = {name: STUDIES[args.study][name] for name in args.only or STUDIES[args.study]}
        print_table("training", {name: trained(name, v, args, out) for name, v in variants.items()})
        return
    if args.study == "distilled":
        print_table("Adam, mini-batches of 64", distilled_table(args.task))
        return
    measured: Callable[[ParameterUpdatePipeline], dict[str, dict[str, str]]]
    measured = {"steps": steps_table, "diversity": diversity_table, "beyond": beyond_table}[args.study]
    for model in args.models:
        print_table(Path(model).name if "/" not in model else model, measured(load(model)))


def load(model: str | Path) -> ParameterUpdatePipeline:
    """A pipeline without its progress bar."""
    pipeline = ParameterUpdatePipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def trained(name: str, training: Training, args: argparse.Namespace, out: Path) -> dict[str, str]:
    """Train and measure a variant, or read what was measured before."""
    file = out / slug(name) / "result.json"
    if not file.exists():
        program = merge(Preset(), read_yaml(PRESETS / f"{args.task}.yaml"), args.task)
        store = CheckpointStore(program.dataset, verify=False)
        variant = Variant(
            {
                "pairs": {"max_runs": training.max_runs},
                "diffusion": training.diffusion,
                "alignment": training.alignment,
            }
        )
        config = replace(settings(program, variant, file.parent), seed=args.seed)
        started = time.perf_counter()
        pipeline = first_stage(config, variant, store, training.denoising * args.minutes, args.base)
        steps = 0
        if training.denoising < 1:
            minutes = (1 - training.denoising) * args.minutes
            pipeline, steps = second_stage(config, pipeline, store, minutes, args.steps)
        took = f"{(time.perf_counter() - started) / 60:.1f}"
        pipeline.set_progress_bar_config(disable=True)
        write_json(file, {"minutes": took, "alignment steps": str(steps), **quality(pipeline, store)})
    found: dict[str, str] = read_json(file)
    return found


def first_stage(
    config: TrainConfig, variant: Variant, store: CheckpointStore, minutes: float, base: Path | None
) -> ParameterUpdatePipeline:
    """Denoise for some minutes, or take the base, or random weights."""
    if minutes:
        steps = int(60 * minutes / seconds_per_step(config, variant, store))
        return train(with_steps(config, steps), variant, store)
    if base:
        return load(base)
    task, options = get_task(config.task), config.pairs
    normalizer, facts = scale_and_facts(store, config.task, config.metric, options.normalization, options.max_runs)
    times = config.diffusion.num_train_timesteps
    model = make_model(task, config.metric, config.model, num_train_timesteps=times, seed=config.seed)
    return make_pipeline(task, model, normalizer, config.diffusion, facts)


def second_stage(
    config: TrainConfig,
    pipeline: ParameterUpdatePipeline,
    store: CheckpointStore,
    minutes: float,
    steps: int | None = None,
) -> tuple[ParameterUpdatePipeline, int]:
    """Align for some steps, or for some minutes; their number then follows from a trial on a copy."""
    pairs = pair_sampler(config, store).batch
    ends = store.params(store.final_rows("train")[: config.pairs.max_runs]) if config.alignment.teacher_runs else None

    def run(num_steps: int, model: ParameterUpdatePipeline, output: Path) -> ParameterUpdatePipeline:
        stage = replace(config, alignment=replace(config.alignment, num_steps=num_steps), output=output)
        return align(stage, get_task(config.task), model, pairs, run_ends=ends)

    if steps is not None:
        return run(steps, pipeline, config.output), steps
    weights = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    moments = []
    for trial, num_steps in enumerate((1, 1, 1 + TRIAL_STEPS)):  # the first one of a program is slower than the next
        started = time.perf_counter()
        run(num_steps, pipeline, config.output / f"trial-{trial}")
        moments.append(time.perf_counter() - started)
    pipeline.transformer.load_state_dict(weights)
    steps = max(1, int(60 * minutes * TRIAL_STEPS / (moments[2] - moments[1])))
    return run(steps, pipeline, config.output), steps


def quality(pipeline: ParameterUpdatePipeline, store: CheckpointStore) -> dict[str, str]:
    """Alignment, best loss and error, diversity, and the distance to the nearest training run."""
    return (
        interval_cells(measure(pipeline))
        | diversity_cells(pipeline)
        | {"nearest run": f"{novelty(pipeline, store):.2f}"}
    )


def novelty(pipeline: ParameterUpdatePipeline, store: CheckpointStore) -> float:
    """Distance of samples to the nearest end of a training run, over that of held-out runs: 1 is as new as those."""
    task = pipeline.task
    rows = store.final_rows("train")[:NOVELTY_RUNS]
    ends, held_out = store.params(rows), store.params(store.final_rows("test")[:NOVELTY_NETWORKS])
    starts = task.init(NOVELTY_NETWORKS, torch.Generator().manual_seed(12345))
    samples = pipeline(starts, best_prompt(pipeline), generator=torch.Generator().manual_seed(0)).params
    nearest = NearestNetworks(ends, NetworkDistance(task.layout, task.permutations))
    own, usual = (nearest(networks).distance.mean() for networks in (samples, held_out))
    return (own / usual).item()


def best_prompt(pipeline: ParameterUpdatePipeline) -> float:
    """The mean best metric of the training runs."""
    return pipeline.facts.attainable()[0]


def diversity_cells(pipeline: ParameterUpdatePipeline, num_steps: int | None = None) -> dict[str, str]:
    """Of 10 samples of each of 64 fresh inits, for the best prompt."""
    starts = pipeline.task.init(64, torch.Generator().manual_seed(12345))
    found = measure_diversity(
        pipeline,
        starts,
        best_prompt(pipeline),
        num_inference_steps=num_steps,
        generator=torch.Generator().manual_seed(0),
    )
    cells = {"within start": f"{found.within_start.mean:.2f}", "between starts": f"{found.between_starts.mean:.2f}"}
    cells["moved"] = f"{found.moved.mean:.2f}"
    if found.single_error and found.ensemble_error and found.distinct_errors:
        cells["distinct errors %"] = f"{100 * found.distinct_errors.mean:.0f}"
        cells["error: one, ensemble of 10"] = f"{found.single_error.mean:.2f}, {found.ensemble_error.mean:.2f}"
    return cells


def steps_table(pipeline: ParameterUpdatePipeline) -> dict[str, dict[str, str]]:
    """Quality by the number of sampling steps."""
    return {f"{num_steps} steps": interval_cells(measure(pipeline, num_steps)) for num_steps in NUM_STEPS}


def diversity_table(pipeline: ParameterUpdatePipeline) -> dict[str, dict[str, str]]:
    """Diversity with the default number of steps and with 20."""
    return {"default steps": diversity_cells(pipeline), "20 steps": diversity_cells(pipeline, 20)}


def beyond_table(pipeline: ParameterUpdatePipeline) -> dict[str, dict[str, str]]:
    """Prompts below the mean best loss of the runs: what 256 fresh inits achieve."""
    best = best_prompt(pipeline)
    starts = pipeline.task.init(256, torch.Generator().manual_seed(12345))
    prompts = best * torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2, 0.1])
    updated = update_networks(pipeline, starts, prompts, generator=torch.Generator().manual_seed(0))
    cells: dict[str, dict[str, str]] = {f"prompt {p:.3f}": {} for p in prompts.tolist()}
    for split in ("validation", "test"):
        for name, values in measure_updates(pipeline.task, updated, split).items():
            for row, column in zip(cells.values(), values.T, strict=True):
                row[f"{split} {name}"] = str(bootstrap_mean(column))
    return cells


def distilled_table(name: str) -> dict[str, dict[str, str]]:
    """Single networks taught as the preset's last stage teaches, by ordinary steps; beside labels, noised as much."""
    program = merge(Preset(), read_yaml(PRESETS / f"{name}.yaml"), name)
    store, task = CheckpointStore(program.dataset, verify=False), teachable(get_task(program.task), program.metric)
    normalizer, _ = scale_and_facts(store, program.task, program.metric, program.pairs.normalization, None)
    ends, found = store.params(store.final_rows("train")), {}
    for taught, weight in (("the mean answer", 1.0), ("labels", 0.0)):
        options = replace(program.alignment, teacher_weight=weight)
        teacher = Teacher(task, task.metric(program.metric), normalizer, options, ends, seed=0)
        for num_steps in DISTILLED_STEPS:
            trained = [distilled(teacher, num_steps, rate) for rate in DISTILLED_RATES]
            losses = torch.stack([task.evaluate(params, "validation")["loss"].mean() for params in trained])
            best = int(losses.argmin())
            cells = {k: f"{bootstrap_mean(v):.3f}" for k, v in task.evaluate(trained[best], "test").items()}
            found[f"{taught}, {num_steps} steps"] = {"rate": f"{DISTILLED_RATES[best]:g}", **cells}
    return found


def distilled(teacher: Teacher, num_steps: int, rate: float) -> torch.Tensor:
    """Fresh networks after steps of Adam with a cosine on the taught loss, (B, P)."""
    generator = torch.Generator().manual_seed(12345)
    params = teacher.task.init(DISTILLED_NETWORKS, generator).requires_grad_()
    optimizer = torch.optim.Adam([params], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        optimizer.zero_grad()
        examples = torch.randint(teacher.num_examples, (64,), generator=generator)
        teacher.training_metric(params, examples).exp().sum().backward()
        optimizer.step()
        schedule.step()
    return params.detach()


def print_table(title: str, rows: dict[str, dict[str, str]]) -> None:
    """Markdown."""
    columns = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    print(f"\n| {title} | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells.get(column, '') for column in columns)} |", flush=True)


if __name__ == "__main__":
    main()
