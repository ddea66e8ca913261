"""Ablations: short trainings that differ in one setting, compared on held-out inits.

    python -m benchmarks.ablations --task digits-deep --minutes 1.5
    python -m benchmarks.ablations --task digits --steps 800 --only base "width 192"

Settings start from the task's preset. Every variant is trained for the same time (--minutes: its number of steps
follows from a trial) or for the same number of steps (--steps), and measured on 256 fresh inits and the VALIDATION
split, so that no choice made here has seen the test split. Finished variants are not repeated. Prints Markdown
tables.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.canonical_order import canonical_pairs, in_canonical_order
from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.facts import fit_normalizer, training_facts
from checkpoints_dataset.harvest import harvest_with_progress
from checkpoints_dataset.pair_sampler import PairSampler
from checkpoints_dataset.store import CheckpointStore, is_finished
from g_pt.evaluation.statistics import bootstrap_mean, prompt_alignment
from g_pt.files.atomic import read_json, write_json
from g_pt.files.config import merge
from g_pt.files.yaml_files import read_yaml
from g_pt.model.normalization import NormalizationMode, ParameterNormalizer
from g_pt.model.pairs import CheckpointPairs
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.prompting import measure_updates, update_networks
from g_pt.networks.training_facts import TrainingFacts
from g_pt.tasks import get_task
from g_pt.tasks.base import Task
from g_pt.training.config import ProgressConfig, TrainConfig
from g_pt.training.loop import fit

PRESETS = Path(__file__).parent.parent / "train" / "presets"
TRIAL_STEPS = 25


@dataclass(frozen=True)
class Preset(TrainConfig):
    """Read a preset file."""

    harvest: HarvestConfig = field(default_factory=HarvestConfig)


@dataclass(frozen=True)
class Variant:
    """Settings that differ from the base, and the share of the base's steps where --steps is given."""

    changes: dict[str, Any] = field(default_factory=dict)
    steps: float = 1.0
    canonical: bool = False


VARIANTS: dict[str, Variant] = {
    "base": Variant(),
    "edge width 16": Variant({"model": {"edge_width": 16}}),
    "edge width 64": Variant({"model": {"edge_width": 64}}),
    "slices, augmentation": Variant({"model": {"tokenization": "slices"}, "pairs": {"augmentation": "permute"}}),
    "slices, canonical order": Variant({"model": {"tokenization": "slices"}}, canonical=True),
    "chunks, augmentation": Variant({"model": {"tokenization": "chunks"}, "pairs": {"augmentation": "permute"}}),
    "normalization per tensor": Variant({"pairs": {"normalization": "tensor"}}),
    "init share 0.03 (the reference's)": Variant({"pairs": {"init_share": 0.03}}),
    "weighting min(SNR, 5)": Variant({"diffusion": {"weighting": "snr"}}),
    "every tensor weighs the same": Variant({"diffusion": {"tensor_weighting": "tensor"}}),
    "behavioural loss 0.02": Variant({"diffusion": {"behavioural_weight": 0.02}}),
    "v-prediction": Variant({"model": {"prediction_type": "v_prediction"}}),
    "flow matching": Variant({"model": {"prediction_type": "flow_prediction"}}),
    "360 runs": Variant({"pairs": {"max_runs": 360}}),
    "batch 256": Variant({"pairs": {"batch_size": 256}}, steps=0.5),
    "learning rate halved": Variant({"optimizer": {"learning_rate": 1.5e-3}}),
    "width 192": Variant({"model": {"width": 192, "num_heads": 6}}, steps=0.6),
    "2 blocks": Variant({"model": {"num_layers": 2}}),
    "6 blocks": Variant({"model": {"num_layers": 6}}),
}
SAMPLERS = [("ddim", n) for n in (1, 2, 5, 10, 20, 50)] + [("dpmsolver++", n) for n in (5, 10, 20)] + [("ddpm", 20)]


def main() -> None:
    """Train what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits", help="a task with a preset of its name")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="time of every training")
    length.add_argument("--steps", type=int, help="steps of the base")
    parser.add_argument("--out", type=Path, help="runs/<task>/ablations where not given; a new one for another length")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), help="variants; all where not given")
    parser.add_argument("--samplers", action="store_true", help="compare samplers of the base model too")
    args = parser.parse_args()
    program = merge(Preset(), read_yaml(PRESETS / f"{args.task}.yaml"), args.task)
    if not is_finished(program.dataset):
        harvest_with_progress(replace(program.harvest, task=program.task), program.dataset)
    store = CheckpointStore(program.dataset, verify=False)
    out = args.out or Path("runs") / args.task / "ablations"
    results = {name: result(name, program, args, store, out) for name in args.only or VARIANTS}
    print_table("variant", results)
    if args.samplers:
        print_table("sampler, steps (base model)", sampler_results(out / slug("base") / "pipeline"))


def slug(name: str) -> str:
    """A folder name."""
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def result(name: str, program: Preset, args: argparse.Namespace, store: CheckpointStore, out: Path) -> dict[str, Any]:
    """Train and measure a variant, or read what was measured before."""
    file = out / slug(name) / "result.json"
    if not file.exists():
        variant = VARIANTS[name]
        shutil.rmtree(file.parent, ignore_errors=True)
        config = settings(program, variant, file.parent)
        if args.minutes:
            steps = int(args.minutes * 60 / seconds_per_step(config, variant, store))
        else:
            steps = int(args.steps * variant.steps)
        started = time.perf_counter()
        pipeline = train(with_steps(config, steps), variant, store)
        minutes = (time.perf_counter() - started) / 60
        write_json(file, {"minutes": minutes, "steps": steps, **measure(pipeline, canonical=variant.canonical)})
    found: dict[str, Any] = read_json(file)
    return found


def settings(program: Preset, variant: Variant, folder: Path) -> TrainConfig:
    """The preset with the variant's changes; evaluations and checkpoints would only cost time."""
    config = TrainConfig(**{name: getattr(program, name) for name in TrainConfig.__dataclass_fields__})
    config = merge(config, variant.changes, "variant")
    progress = ProgressConfig(evaluate_every=0, save_every=0)
    return replace(config, output=folder, pipeline=None, progress=progress)


def with_steps(config: TrainConfig, num_steps: int) -> TrainConfig:
    """The same settings for another number of steps."""
    return replace(config, optimizer=replace(config.optimizer, num_steps=num_steps, ema_decay=0.998))


def seconds_per_step(config: TrainConfig, variant: Variant, store: CheckpointStore) -> float:
    """Median time between two steps of a short trial: the first steps and the start-up are slower."""
    trial = replace(with_steps(config, TRIAL_STEPS), output=config.output.with_name("trial"))
    shutil.rmtree(trial.output, ignore_errors=True)
    moments: list[float] = []
    train(trial, variant, store, moments)
    shutil.rmtree(trial.output)
    return statistics.median(after - before for before, after in pairwise(moments))


def train(
    config: TrainConfig, variant: Variant, store: CheckpointStore, moments: list[float] | None = None
) -> ParameterUpdatePipeline:
    """One training; the moments at which its steps begin are appended where a list is given."""
    task, options = get_task(config.task), config.pairs
    sampler = pair_sampler(config, store)
    normalizer, facts = scale_and_facts(store, config.task, config.metric, options.normalization, options.max_runs)
    source = canonical_pairs(sampler.batch, task) if variant.canonical else sampler.batch

    def pairs(step: int, share: slice) -> CheckpointPairs:
        if moments is not None:
            moments.append(time.perf_counter())
        return source(step, share)

    return fit(config, task, pairs, normalizer, facts)


def pair_sampler(config: TrainConfig, store: CheckpointStore) -> PairSampler:
    """Training pairs as the settings want them."""
    options = config.pairs
    return PairSampler(
        store,
        config.metric,
        batch_size=options.batch_size,
        seed=config.seed,
        init_share=options.init_share,
        max_runs=options.max_runs,
    )


@cache
def scale_and_facts(
    store: CheckpointStore, task: str, metric: str, normalization: NormalizationMode, max_runs: int | None
) -> tuple[ParameterNormalizer, TrainingFacts]:
    """Data that trainings share; reading it takes longer than a trial."""
    facts = training_facts(store, get_task(task), metric, max_runs=max_runs)
    return fit_normalizer(store, normalization, max_runs=max_runs), facts


def measure(
    pipeline: ParameterUpdatePipeline, num_steps: int | None = None, *, canonical: bool = False
) -> dict[str, Any]:
    """Alignment over the attainable range and the best mean loss, on the validation split."""
    task: Task = pipeline.task
    starts = task.init(256, torch.Generator().manual_seed(12345))
    starts = in_canonical_order(task, starts) if canonical else starts
    prompts = pipeline.facts.prompts(10)
    generator = torch.Generator().manual_seed(0)
    updated = update_networks(pipeline, starts, prompts, num_inference_steps=num_steps, generator=generator)
    achieved = measure_updates(task, updated, "validation")
    best = int(achieved["loss"].mean(dim=0).argmin())
    return {
        "alignment": vars(bootstrap_mean(prompt_alignment(prompts, achieved["loss"]))),
        "loss": vars(bootstrap_mean(achieved["loss"][:, best])),
        "error": vars(bootstrap_mean(achieved["error"][:, best])),
    }


def sampler_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The base model under other samplers and numbers of steps."""
    results = {}
    for name, steps in SAMPLERS:
        file = folder.parent / f"sampler-{slug(name)}-{steps}.json"
        if not file.exists():
            pipeline = ParameterUpdatePipeline.from_pretrained(folder)
            pipeline.set_scheduler(name)
            started = time.perf_counter()
            write_json(
                file, {**measure(pipeline, steps), "minutes": (time.perf_counter() - started) / 60, "steps": steps}
            )
        results[f"{name}, {steps}"] = read_json(file)
    return results


def print_table(title: str, results: dict[str, dict[str, Any]]) -> None:
    """Markdown, with 95 % intervals."""
    print(
        f"\n| {title} | steps | minutes | alignment | validation loss | validation error % |\n|---|---|---|---|---|---|"
    )
    for name, found in results.items():
        print(f"| {name} | {found['steps']} | {found['minutes']:.1f} | {' | '.join(interval_cells(found).values())} |")


def interval_cells(found: dict[str, Any]) -> dict[str, str]:
    """Format the result of `measure`."""
    return {
        name: f"{found[name]['mean']:.3f} [{found[name]['low']:.3f}, {found[name]['high']:.3f}]"
        for name in ("alignment", "loss", "error")
    }


if __name__ == "__main__":
    main()
