"""Prompt alignment and one-update loss against model size and number of runs, as in the paper's figure 7.

    python -m benchmarks.scaling_study --minutes 3
    python -m benchmarks.scaling_study --minutes 3 --dataset runs/digits/checkpoints --only "128 x 4" "100 runs"

Every training takes the same time: --minutes, 60 % for denoising, the rest for alignment; the numbers of steps follow
from trials. Settings are the preset's; learning rates of both stages fall as 1/width above width 128. A model is
measured after each stage on fresh inits: prompts evenly spaced over the attainable range of the largest training set,
the best prompt chosen on the validation split, metrics of the TEST split. One training each: intervals are over
networks, not over trainings. Finished trainings are not repeated. Writes JSON and a figure, prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablations import PRESETS, Preset, Variant, scale_and_facts, settings, slug
from benchmarks.alignment import first_stage, second_stage
from checkpoints_dataset.harvest import harvest_with_progress
from checkpoints_dataset.store import CheckpointStore, is_finished
from g_pt.evaluation.statistics import bootstrap_mean, prompt_alignment
from g_pt.files.atomic import read_json, write_json
from g_pt.files.config import merge
from g_pt.files.yaml_files import read_yaml
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.prompting import measure_updates, prompt_grid, update_networks
from g_pt.pictures.canvas import BLUE, GREY, ORANGE, new_figure, plain_log, save_figure
from g_pt.training.config import TrainConfig

DENOISING_SHARE = 0.6
NUM_NETWORKS, NUM_PROMPTS = 128, 10
STAGES = {"denoised": 10, "aligned": 2}  # sampling steps: more bring nothing, see docs/digits.md and docs/alignment.md
ALL_RUNS = 10_000
BASE = "128 x 4"


@dataclass(frozen=True)
class Size:
    """A model, and how many runs it sees."""

    width: int = 128
    num_layers: int = 4
    num_heads: int = 4
    tokenization: str = "units"
    max_runs: int = ALL_RUNS

    @property
    def variant(self) -> Variant:
        """Settings that differ from the preset."""
        shape = {"width": self.width, "num_layers": self.num_layers, "num_heads": self.num_heads}
        augmentation = "none" if self.tokenization == "units" else "permute"
        return Variant(
            {
                "model": {**shape, "tokenization": self.tokenization},
                "pairs": {"max_runs": self.max_runs, "augmentation": augmentation},
            }
        )


GRID: dict[str, Size] = {
    BASE: Size(),
    "32 x 3": Size(32, 3, 2),
    "64 x 4": Size(64, 4, 4),
    "192 x 4": Size(192, 4, 6),
    "320 x 4": Size(320, 4, 8),
    **{f"{runs} runs": Size(max_runs=runs) for runs in (30, 100, 300, 1000, 3000)},
    "chunks, 128 x 4": Size(tokenization="chunks"),
    "chunks, 256 x 4": Size(256, 4, 8, tokenization="chunks"),
}


def main() -> None:
    """Train what is missing, measure, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits", help="a task with a preset of its name")
    parser.add_argument("--minutes", type=float, default=3.0, help="time of every training, both stages")
    parser.add_argument("--dataset", type=Path, help="the preset's where not given; harvested where it is missing")
    parser.add_argument("--only", nargs="*", choices=list(GRID), help="trainings; all where not given")
    parser.add_argument("--out", type=Path, help="runs/<task>/scaling where not given; a new one for other minutes")
    parser.add_argument("--figure", type=Path, default=Path("docs/images/scaling.png"))
    args = parser.parse_args()
    program = merge(Preset(), read_yaml(PRESETS / f"{args.task}.yaml"), args.task)
    program = replace(program, dataset=args.dataset or program.dataset)
    if not is_finished(program.dataset):
        harvest_with_progress(replace(program.harvest, task=program.task), program.dataset)
    store = CheckpointStore(program.dataset, verify=False)
    out = args.out or Path("runs") / args.task / "scaling"
    results = {name: result(name, program, args.minutes, store, out) for name in args.only or GRID}
    write_json(out / "scaling.json", {"minutes": args.minutes, "networks": NUM_NETWORKS, "trainings": results})
    draw(results, args.figure, program.metric)
    print_tables(results)
    print(f"\nwritten: {out / 'scaling.json'}, {args.figure}")


def result(name: str, program: Preset, minutes: float, store: CheckpointStore, out: Path) -> dict[str, Any]:
    """Train and measure, or read what was measured before."""
    file = out / slug(name) / "result.json"
    if not file.exists():
        size, started = GRID[name], time.perf_counter()
        print(f"{name} ...", flush=True)
        config = scaled_rates(settings(program, size.variant, file.parent))
        pipeline = first_stage(config, size.variant, store, DENOISING_SHARE * minutes, None)
        found: dict[str, Any] = {
            "parameters": sum(p.numel() for p in pipeline.transformer.parameters()),
            "runs": min(size.max_runs, len(store.runs_of("train"))),
            "tokens": size.tokenization,
            "denoising_steps": int(read_json(config.output / "train_config.json")["optimizer"]["num_steps"]),
        }
        everything = scale_and_facts(store, config.task, config.metric, config.pairs.normalization, ALL_RUNS)[1]
        found["denoised"] = measure(pipeline, STAGES["denoised"], everything.attainable())
        pipeline, found["alignment_steps"] = second_stage(config, pipeline, store, (1 - DENOISING_SHARE) * minutes)
        found["aligned"] = measure(pipeline, STAGES["aligned"], everything.attainable())
        write_json(file, {**found, "minutes": (time.perf_counter() - started) / 60})
    kept: dict[str, Any] = read_json(file)
    return kept


def scaled_rates(config: TrainConfig) -> TrainConfig:
    """Lower learning rates for wider models, which diverge at the preset's."""
    scale = min(1.0, 128 / config.model.width)
    optimizer, alignment = config.optimizer, config.alignment
    return replace(
        config,
        optimizer=replace(optimizer, learning_rate=scale * optimizer.learning_rate),
        alignment=replace(alignment, learning_rate=scale * alignment.learning_rate),
    )


def measure(
    pipeline: ParameterUpdatePipeline, num_steps: int, attainable_range: Sequence[float]
) -> dict[str, dict[str, float]]:
    """Alignment, and every metric at the prompt that is best on the validation split; all of the test split."""
    pipeline.set_progress_bar_config(disable=True)
    task, metric = pipeline.task, pipeline.metric
    starts = task.init(NUM_NETWORKS, torch.Generator().manual_seed(12345))
    best, worst = attainable_range
    prompts = prompt_grid(best, worst, NUM_PROMPTS)
    generator = torch.Generator().manual_seed(0)
    updated = update_networks(pipeline, starts, prompts, num_inference_steps=num_steps, generator=generator)
    chosen = int(metric.argbest(measure_updates(task, updated, "validation")[metric.name].mean(dim=0)))
    achieved = measure_updates(task, updated, "test")
    alignment = bootstrap_mean(prompt_alignment(prompts, achieved[metric.name]))
    return {
        "alignment": vars(alignment),
        **{name: vars(bootstrap_mean(values[:, chosen])) for name, values in achieved.items()},
    }


def by_size(results: dict[str, dict[str, Any]], tokens: str) -> list[dict[str, Any]]:
    """Trainings on all runs, smallest model first."""
    most = max((r["runs"] for r in results.values()), default=0)
    kept = [r for r in results.values() if r["tokens"] == tokens and r["runs"] == most]
    return sorted(kept, key=lambda r: r["parameters"])


def by_runs(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Trainings of the base model, fewest runs first."""
    names = [name for name in results if name == BASE or name.endswith(" runs")]
    return sorted((results[name] for name in names), key=lambda r: r["runs"])


def draw(results: dict[str, dict[str, Any]], path: Path, metric: str) -> None:
    """Misalignment above, loss below; against model size on the left, against runs on the right."""
    figure, axes = new_figure(2, 2)
    columns = (
        ("parameters", "model parameters", {t: by_size(results, t) for t in ("units", "chunks")}),
        ("runs", "training runs", {"units": by_runs(results)}),
    )
    for row, (key, label) in enumerate(
        (("alignment", "1 - prompt alignment"), (metric, f"test {metric}, best prompt"))
    ):
        for column, (x, x_label, lines) in enumerate(columns):
            axis = axes[2 * row + column]
            for tokens, trainings in lines.items():
                for stage, color in (("denoised", GREY), ("aligned", BLUE if tokens == "units" else ORANGE)):
                    draw_line(axis, trainings, x, key, stage, color, tokens)
            axis.set(xlabel=x_label, ylabel=label)
            plain_log(axis, "x")
            plain_log(axis)
            axis.legend(frameon=False, fontsize=8)
    figure.suptitle(
        f"one training of each; bars are 95 % bootstrap intervals over {NUM_NETWORKS} networks, not over trainings",
        fontsize=9,
    )
    save_figure(figure, path)


def draw_line(
    axis: Any, trainings: list[dict[str, Any]], x: str, key: str, stage: str, color: str, tokens: str
) -> None:
    """One stage of the trainings, with intervals."""
    if not trainings:
        return
    value = (lambda v: 1 - v) if key == "alignment" else (lambda v: v)
    means = [value(t[stage][key]["mean"]) for t in trainings]
    ends = [sorted(value(t[stage][key][end]) for end in ("low", "high")) for t in trainings]
    errors = [[m - low for m, (low, _) in zip(means, ends, strict=True)]]
    errors.append([high - m for m, (_, high) in zip(means, ends, strict=True)])
    style = "o-" if tokens == "units" else "s--"
    axis.errorbar(
        [t[x] for t in trainings],
        means,
        errors,
        fmt=style,
        ms=4,
        lw=1.3,
        capsize=2,
        color=color,
        label=f"{tokens}, {stage}",
    )


def print_tables(results: dict[str, dict[str, Any]]) -> None:
    """Markdown."""
    metrics = [name for name in next(iter(results.values()))["denoised"] if name != "alignment"]
    columns = [f"{name}, {stage}" for stage in STAGES for name in ("alignment", *(f"test {m}" for m in metrics))]
    print(f"\n| training | parameters | runs | steps of both stages | {' | '.join(columns)} |")
    print("|---" * (4 + len(columns)) + "|")
    for name, r in results.items():
        cells = [
            f"{r[stage][key]['mean']:.3f} [{r[stage][key]['low']:.3f}, {r[stage][key]['high']:.3f}]"
            for stage in STAGES
            for key in ("alignment", *metrics)
        ]
        steps = f"{r['denoising_steps']}, {r['alignment_steps']}"
        print(f"| {name} | {r['parameters'] / 1e6:.2f} M | {r['runs']} | {steps} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
