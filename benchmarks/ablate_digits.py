"""What matters for a digits G.pt: short trainings that differ in one setting, compared on held-out inits.

    python benchmarks/ablate_digits.py --steps 800 --out runs/ablations

Every variant is trained for the same number of steps (the wider and deeper ones for the same time) and measured
on 256 fresh inits and the VALIDATION split of digits, so that no choice made here has seen the test split.
Finished variants are not repeated. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.facts import fit_normalizer, training_facts
from checkpoints_dataset.pair_sampler import PairSampler
from checkpoints_dataset.store import CheckpointStore
from g_pt.atomic_files import read_json, write_json
from g_pt.commands.harvest import harvest_with_progress
from g_pt.config_files import merge
from g_pt.evaluation import bootstrap_mean, prompt_alignment
from g_pt.pipeline import ParameterUpdatePipeline
from g_pt.prompting import measure_updates, prompt_grid, update_networks
from g_pt.tasks import get_task
from g_pt.training.config import ProgressConfig, TrainConfig
from g_pt.training.loop import fit


@dataclass(frozen=True)
class Variant:
    """Settings that differ from the base, and the share of the base's steps that fits its time."""

    changes: dict[str, Any] = field(default_factory=dict)
    steps: float = 1.0


VARIANTS: dict[str, Variant] = {
    "base": Variant(),
    "normalization per tensor": Variant({"pairs": {"normalization": "tensor"}}),
    "init share 0.03 (the reference's)": Variant({"pairs": {"init_share": 0.03}}),
    "init share 0.6": Variant({"pairs": {"init_share": 0.6}}),
    "weighting min(SNR, 5)": Variant({"diffusion": {"weighting": "snr"}}),
    "3,600 runs": Variant({"pairs": {"max_runs": 3600}}),
    "360 runs": Variant({"pairs": {"max_runs": 360}}),
    "twice the steps": Variant(steps=2.0),
    "twice the steps, 360 runs": Variant({"pairs": {"max_runs": 360}}, steps=2.0),
    "batch 128, twice the steps": Variant({"pairs": {"batch_size": 128}}, steps=2.0),
    "learning rate 4e-3": Variant({"optimizer": {"learning_rate": 4e-3}}),
    "width 192, equal time": Variant({"model": {"width": 192, "num_heads": 6}}, steps=0.6),
    "metric frequencies up to 1024": Variant({"model": {"max_metric_frequency": 1024.0}}),
}
SAMPLERS = [("ddim", n) for n in (1, 2, 5, 10, 20, 50)] + [("dpmsolver++", n) for n in (5, 10, 20)] + [("ddpm", 20)]


def main() -> None:
    """Train what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800, help="steps of the base")
    parser.add_argument("--dataset", type=Path, default=Path("runs/digits/checkpoints"))
    parser.add_argument(
        "--out", type=Path, default=Path("runs/ablations"), help="use a new one for other steps or data"
    )
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), help="variants; all where not given")
    args = parser.parse_args()
    harvest_with_progress(HarvestConfig(num_runs=12_000, num_checkpoints=40), args.dataset)
    store = CheckpointStore(args.dataset, verify=False)
    results = {name: result(name, args.steps, store, args.out) for name in args.only or VARIANTS}
    print_table("variant", results)
    print_table("sampler, steps (base model)", sampler_results(args.out / slug("base") / "pipeline"))


def slug(name: str) -> str:
    """A folder name."""
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def result(name: str, base_steps: int, store: CheckpointStore, out: Path) -> dict[str, Any]:
    """Train and measure a variant, or read what was measured before."""
    file = out / slug(name) / "result.json"
    if not file.exists():
        variant = VARIANTS[name]
        config = TrainConfig(output=file.parent, progress=ProgressConfig(evaluate_every=0, save_every=0))
        steps = int(base_steps * variant.steps)
        config = merge(config, {"optimizer": {"num_steps": steps, "ema_decay": 0.998}}, name)
        config = replace(merge(config, variant.changes, name), output=file.parent)
        started = time.perf_counter()
        pipeline = train(config, store)
        write_json(file, {"minutes": (time.perf_counter() - started) / 60, "steps": steps, **measure(pipeline)})
    found: dict[str, Any] = read_json(file)
    return found


def train(config: TrainConfig, store: CheckpointStore) -> ParameterUpdatePipeline:
    """One training."""
    task, pairs = get_task(config.task), config.pairs
    sampler = PairSampler(
        store,
        config.metric,
        batch_size=pairs.batch_size,
        seed=config.seed,
        init_share=pairs.init_share,
        max_runs=pairs.max_runs,
    )
    facts = training_facts(store, task, config.metric, max_runs=pairs.max_runs)
    return fit(config, task, sampler.batch, fit_normalizer(store, pairs.normalization, max_runs=pairs.max_runs), facts)


def measure(pipeline: ParameterUpdatePipeline, num_steps: int | None = None) -> dict[str, Any]:
    """Alignment over the attainable range and the best mean loss, on the validation split."""
    task = get_task("digits")
    starts = task.init(256, torch.Generator().manual_seed(12345))
    best_loss, init_loss = pipeline.config.training["attainable_range"]
    prompts = prompt_grid(best_loss, init_loss, 10)
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
        cells = [
            f"{found[k]['mean']:.3f} [{found[k]['low']:.3f}, {found[k]['high']:.3f}]"
            for k in ("alignment", "loss", "error")
        ]
        print(f"| {name} | {found['steps']} | {found['minutes']:.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
