"""gpt-sample: give one network one update that should bring its metric to a prompted value.

Examples:
    gpt-sample --prompt-loss 0.1
    gpt-sample --prompt-error 4 --seed 7 --num-samples 5 --json
    gpt-sample --prompt-loss 0.3 --start my_network.safetensors --out updated.safetensors
    gpt-sample --prompt-loss 0.1 --model org/name --scheduler dpmsolver++ --num-inference-steps 10

Metrics shown are those of the test split; prompts mean the validation split.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from g_pt.commands.terminal import exit_on_user_error, hide_bars_in_pipes, show_warnings
from g_pt.tasks.data_folders import use_data_dir

if TYPE_CHECKING:
    from torch import Tensor

    from g_pt.pipeline import ParameterUpdatePipeline

PROMPTS = ("loss", "error")


@dataclass(frozen=True)
class Arguments:
    """What to sample."""

    prompt_loss: float | None = None
    """Wanted loss, in the task's unit: nats for classifiers."""
    prompt_error: float | None = None
    """Wanted error, in the task's unit: percent for classifiers."""
    task: str = "digits"
    """Task whose bundled model is used where --model is not given; where the task of --model is your own,
    path/to/file.py:Class or package.module:Class."""
    model: str | None = None
    """Folder, bundled name or Hub repository of a G.pt."""
    start: Path | None = None
    """State dict of the network to update (.safetensors, or .pt with tensors only); a fresh one otherwise."""
    seed: int = 0
    """Of the fresh network and of the sampling noise."""
    num_samples: int = 1
    """Different updates of the same network."""
    num_inference_steps: int | None = None
    """Sampling steps; the model's own default where not given."""
    scheduler: str | None = None
    """ddim, ddpm, dpmsolver++ or unipc; the model's own where not given."""
    recursive: int = 1
    """Feed the result back as the next start this many times in all, with the same prompt."""
    out: Path = Path("updated.safetensors")
    """State dict of the updated network; several samples get -0, -1, ... before the suffix."""
    json: bool = False
    """Print one JSON object instead of a table."""
    data_dir: Path | None = None
    """Folder in which image sets are looked for first."""

    def prompt(self) -> tuple[str, float]:
        """Name and wanted value of the one metric that is prompted."""
        given = {name: getattr(self, f"prompt_{name}") for name in PROMPTS}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            flags = " or ".join(f"--prompt-{name}" for name in PROMPTS)
            raise ValueError(
                f"give exactly one prompt, {flags}; got {len(given)}. Example: gpt-sample --prompt-loss 0.1"
            )
        return next(iter(given.items()))

    def model_name(self, metric: str) -> str:
        """The model asked for, or the bundled one of the task and metric."""
        return f"{self.task}-{metric}" if self.model is None else self.model

    def check(self) -> None:
        """Refuse counts below 1 and outputs that are not safetensors."""
        for name in ("num_samples", "recursive", "num_inference_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.out.suffix != ".safetensors":
            raise ValueError(f"--out must end in .safetensors, got {self.out}")


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command."""
    with exit_on_user_error("gpt-sample"):
        parsed = tyro.cli(Arguments, args=arguments, prog="gpt-sample", description=(__doc__ or "").strip())
        metric, prompt = parsed.prompt()
        parsed.check()
        use_data_dir(parsed.data_dir)
        show_warnings("gpt-sample")
        with redirect_stdout(sys.stderr):  # a user's task may print, and --json promises one object
            result = run(parsed, metric, prompt)
        if parsed.json:
            print(json.dumps(result))
        else:
            print_table(result)


def run(arguments: Arguments, metric: str, prompt: float) -> dict[str, Any]:
    """Load, measure, update, measure, write; returns what `--json` prints."""
    import torch

    from g_pt.network_files import read_network, write_network
    from g_pt.prompting import prompt_recursively

    started = time.perf_counter()
    pipeline = load_pipeline(arguments, metric)
    task = pipeline.task
    generator = torch.Generator().manual_seed(arguments.seed)
    given = arguments.start
    start = task.init(1, generator)[0] if given is None else read_network(given, task.layout)  # (P,)
    starts = start.expand(arguments.num_samples, -1)  # (samples, P)
    num_steps = arguments.num_inference_steps or pipeline.config.num_inference_steps
    updated = prompt_recursively(
        pipeline, starts, prompt, arguments.recursive, num_inference_steps=num_steps, generator=generator
    )[-1]
    before, after = measured(pipeline, starts), measured(pipeline, updated)
    files = output_files(arguments.out, arguments.num_samples)
    for file, params in zip(files, updated, strict=True):
        write_network(file, params, task.layout, {f"prompted_{metric}": str(prompt), "task": task.name})
    samples = [
        {"starting": a, "achieved": b, "file": str(file)} for a, b, file in zip(before, after, files, strict=True)
    ]
    return {
        "model": arguments.model_name(metric),
        "task": task.name,
        "metric": metric,
        "prompt": prompt,
        "num_inference_steps": num_steps,
        "seed": arguments.seed,
        "samples": samples,
        "seconds": round(time.perf_counter() - started, 3),
    }


def load_pipeline(arguments: Arguments, metric: str) -> ParameterUpdatePipeline:
    """The model asked for, or the bundled one of the task and metric."""
    from g_pt.commands.own_task import check_task_of
    from g_pt.hub import bundled_models
    from g_pt.pipeline import ParameterUpdatePipeline
    from g_pt.tasks import get_task

    name = arguments.model_name(metric)
    own = get_task(arguments.task) if ":" in arguments.task else None
    if arguments.model is None:  # refuse what does not exist before anything is loaded
        (own or get_task(arguments.task)).metric(metric)
        if name not in bundled_models():
            raise ValueError(
                f"no model is bundled for task {arguments.task!r} and {metric}; bundled are {bundled_models()}, "
                "others are named by --model"
            )
    hide_bars_in_pipes()
    pipeline = ParameterUpdatePipeline.from_pretrained(name)
    if own is not None:
        check_task_of(pipeline, own, name)
    if pipeline.metric.name != metric:
        raise ValueError(
            f"{name} is prompted by {pipeline.metric.name}, not {metric}: use --prompt-{pipeline.metric.name}"
        )
    if arguments.scheduler is not None:
        pipeline.set_scheduler(arguments.scheduler)
    return pipeline


def measured(pipeline: ParameterUpdatePipeline, params: Tensor) -> list[dict[str, float]]:
    """Metrics of each network (B, P) on the test split."""
    columns = pipeline.task.evaluate(params, "test")
    return [{name: float(values[i]) for name, values in columns.items()} for i in range(len(params))]


def output_files(out: Path, num_samples: int) -> list[Path]:
    """One file name per sample."""
    if num_samples == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(num_samples)]


def print_table(result: dict[str, Any]) -> None:
    """A small table for people."""
    from rich.console import Console
    from rich.table import Table

    metrics = list(result["samples"][0]["starting"])
    table = Table("", *metrics)
    rows = [("before", result["samples"][0]["starting"]), ("prompted", {result["metric"]: result["prompt"]})]
    many = len(result["samples"]) > 1
    rows += [(f"achieved {i}" if many else "achieved", s["achieved"]) for i, s in enumerate(result["samples"])]
    for name, values in rows:
        table.add_row(name, *(f"{values[m]:.4g}" if m in values else "" for m in metrics))
    console = Console(highlight=False)
    console.print(f"updated by {result['model']}, measured on the test split of {result['task']}")
    console.print(table)
    for sample in result["samples"]:
        console.print(f"written: {sample['file']}")


if __name__ == "__main__":
    main()
