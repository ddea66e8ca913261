"""gpt-sample: give one network one update that should bring its metric to a prompted value.

Examples:
    gpt-sample --prompt-loss 0.1
    gpt-sample --prompt-error 4 --seed 7 --num-samples 5 --json
    gpt-sample --task cartpole --prompt-return 500 --video out.gif
    gpt-sample --prompt-loss 0.3 --start my_network.safetensors --out updated.safetensors
    gpt-sample --prompt-loss 0.1 --hidden 24,12
    gpt-sample --prompt-loss 0.1 --model org/name --scheduler dpmsolver++ --num-inference-steps 10

Every metric of the task can be prompted: --prompt-<metric>. Metrics shown are those of the test split; prompts mean the
validation split.
"""

from __future__ import annotations

import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g_pt.command_line.output import check_file, check_fits, json_line
from g_pt.command_line.parsing import parse
from g_pt.command_line.terminal import UsageError, exit_on_error, hide_bars_in_pipes, show_warnings
from g_pt.tasks.data_folders import use_data_dir

if TYPE_CHECKING:
    from torch import Tensor

    from g_pt.model.pipeline import ParameterUpdatePipeline
    from g_pt.tasks.base import Task

# per parameter of a sample, at the least, float32: start and result, raw and normalised; noisy, predicted and next
# state of the sampler; pieces and outputs of the tokens. The blocks take more on top
BYTES = 10 * 4
ANY_SIZE = "-any-size"  # in the names of bundled models of a family, between task and metric
PROMPTS = ("loss", "error", "return")  # those that --help lists


@dataclass(frozen=True)
class Arguments:
    """Settings of gpt-sample."""

    prompt_loss: float | None = None
    """Wanted loss, in the task's unit: nats for classifiers."""
    prompt_error: float | None = None
    """Wanted error, in the task's unit: percent for classifiers."""
    prompt_return: float | None = None
    """Wanted return of a policy: the mean sum of rewards of an episode."""
    task: str = "digits"
    """Task whose bundled model is used where --model is not given; where the task of --model is your own,
    path/to/file.py:Class or package.module:Class."""
    model: str | None = None
    """Folder, bundled name or Hub repository of a G.pt."""
    start: Path | None = None
    """State dict of the network to update (.safetensors, or .pt with tensors only); a fresh one otherwise."""
    hidden: str | None = None
    """Widths of the hidden layers, 48 or 24,12, for a model of networks of any size; --start has its own."""
    seed: int = 0
    """Of the fresh network and of the sampling noise."""
    num_samples: int = 1
    """Different updates of the same network."""
    num_inference_steps: int | None = None
    """Sampling steps; the model's own default where not given."""
    scheduler: str | None = None
    """ddim, ddpm, dpmsolver++, dpmsolver++-singlestep, euler, heun, lms or unipc; the model's own where not given."""
    recursive: int = 1
    """Feed the result back as the next start this many times in all, with the same prompt."""
    alpha: float = 1.0
    """Share of the way to each update that is gone: 1 is the update, less is more careful, 0 is no move."""
    out: Path = Path("updated.safetensors")
    """State dict of the updated network; several samples get -0, -1, ... before the suffix."""
    video: Path | None = None
    """Show one episode of the policy before and after the update, side by side from the same start (.gif)."""
    json: bool = False
    """Print one JSON object instead of a table."""
    data_dir: Path | None = None
    """Folder in which image sets are looked for first."""

    def prompt(self, others: dict[str, float]) -> tuple[str, float]:
        """Name and wanted value of the one metric that is prompted, by a flag of this class or one of the others."""
        given = {name: getattr(self, f"prompt_{name}") for name in PROMPTS}
        given = {name: value for name, value in given.items() if value is not None} | others
        if len(given) != 1:
            flags = " or ".join(f"--prompt-{name}" for name in (*PROMPTS, "<metric>"))
            raise UsageError(
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
        if self.video is not None and self.video.suffix != ".gif":
            raise ValueError(f"--video must end in .gif, got {self.video}")
        for flag, path in (("--out", self.out), ("--video", self.video)):
            if path is not None:
                check_file(path, flag)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command."""
    with exit_on_error("gpt-sample"):
        others, rest = other_prompts(sys.argv[1:] if arguments is None else arguments)
        parsed = parse(Arguments, rest, prog="gpt-sample", description=__doc__)
        metric, prompt = parsed.prompt(others)
        parsed.check()
        use_data_dir(parsed.data_dir)
        show_warnings("gpt-sample")
        with redirect_stdout(sys.stderr):  # a user's task may print, and --json promises one object
            result = run(parsed, metric, prompt)
        if parsed.json:
            print(json_line(result))
        else:
            print_table(result)


def other_prompts(arguments: list[str]) -> tuple[dict[str, float], list[str]]:
    """Take `--prompt-<metric> VALUE` out of the flags where the metric is not one that `Arguments` lists.

    Raises:
        ValueError: the value is missing or no number.
    """
    prompts: dict[str, float] = {}
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        name = flag.removeprefix("--prompt-")
        if name == flag or name in PROMPTS:
            rest.append(argument)
            continue
        text = value if equals else next(remaining, "")
        try:
            prompts[name] = float(text)
        except ValueError as error:
            raise UsageError(f"{flag} must be followed by a number, got {text!r}") from error
    return prompts, rest


def run(arguments: Arguments, metric: str, prompt: float) -> dict[str, Any]:
    """Load, measure, update, measure, write; returns what `--json` prints."""
    import torch

    from g_pt.model.prompting import check_alpha, prompt_recursively
    from g_pt.networks.network_files import read_network, write_network

    started = time.perf_counter()
    check_alpha(arguments.alpha)
    model = chosen_model(arguments, metric)
    pipeline = member_asked_for(load_pipeline(arguments, metric, model), arguments)
    task = pipeline.task
    if arguments.video is not None:
        check_video(task)
    generator = torch.Generator().manual_seed(arguments.seed)
    given = arguments.start
    start = task.init(1, generator)[0] if given is None else read_network(given, task.layout)  # (P,)
    check_fits(BYTES * arguments.num_samples * task.layout.num_params, f"--num-samples {arguments.num_samples}")
    starts = start.expand(arguments.num_samples, -1)  # (samples, P)
    num_steps = arguments.num_inference_steps or pipeline.config.num_inference_steps
    updates = prompt_recursively(
        pipeline,
        starts,
        prompt,
        arguments.recursive,
        alpha=arguments.alpha,
        num_inference_steps=num_steps,
        generator=generator,
    )
    updated = updates[-1]
    before, after = measured(pipeline, starts), measured(pipeline, updated)
    files = output_files(arguments.out, arguments.num_samples)
    replaced = [file.exists() for file in files]
    for file, params in zip(files, updated, strict=True):
        write_network(file, params, task.layout, {f"prompted_{metric}": str(prompt), "task": task.name})
    videos = [] if arguments.video is None else output_files(arguments.video, arguments.num_samples)
    replaced_videos = [video.exists() for video in videos]
    if videos:
        from rl_tasks.video import write_comparison

        for video, params in zip(videos, updated, strict=True):
            write_comparison(task, start, params, video)
    samples = [
        {"starting": a, "achieved": b, "file": str(file)} for a, b, file in zip(before, after, files, strict=True)
    ]
    return {
        "model": model,
        "task": task.name,
        "metric": metric,
        "prompt": prompt,
        "num_inference_steps": num_steps,
        "seed": arguments.seed,
        "samples": samples,
        "files": [
            {"file": str(file), "replaced": was_there}
            for file, was_there in zip([*files, *videos], [*replaced, *replaced_videos], strict=True)
        ],
        "seconds": round(time.perf_counter() - started, 3),
    }


def check_video(task: Task) -> None:
    """Refuse a video of what is no policy, or without the packages that draw it, before anything is sampled."""
    from rl_tasks.task import GymnasiumTask
    from rl_tasks.video import check_packages

    if not isinstance(task, GymnasiumTask):
        raise ValueError(f"--video shows episodes of policies, but task {task.name!r} has none")
    check_packages()


def chosen_model(arguments: Arguments, metric: str) -> str:
    """The model asked for, or the bundled one of task and metric: that for any size where another size is meant."""
    from g_pt.hub.download import bundled_models
    from g_pt.tasks import is_family

    name, any_size = arguments.model_name(metric), f"{arguments.task.partition('[')[0]}{ANY_SIZE}-{metric}"
    if arguments.model is not None or any_size not in bundled_models():
        return name
    return any_size if is_family(arguments.task) or arguments.hidden or is_of_other_size(arguments) else name


def is_of_other_size(arguments: Arguments) -> bool:
    """Whether the start is a network of the task's family, but not of the task."""
    from g_pt.networks.network_files import bare_tensors
    from g_pt.tasks import get_family, get_task

    if arguments.start is None or ":" in arguments.task:
        return False
    own = get_task(arguments.task).layout
    try:
        tensors = bare_tensors(arguments.start)
        family = get_family(f"{arguments.task}[{own.shapes[0][1]}-**-{own.shapes[-1][0]}]")
        return family.member(family.hidden_of(tensors)).layout != own
    except (ValueError, OSError, IndexError):  # whatever it is, the model of one size says what is wrong with it
        return False


def load_pipeline(arguments: Arguments, metric: str, name: str) -> ParameterUpdatePipeline:
    """The model of this name, which must be of the task that was asked for."""
    from g_pt.hub.download import bundled_models
    from g_pt.model.pipeline import ParameterUpdatePipeline
    from g_pt.tasks import base_task

    own = base_task(arguments.task) if ":" in arguments.task else None
    if arguments.model is None:  # refuse what does not exist before anything is loaded
        check_prompt(own or base_task(arguments.task), metric)
        if name not in bundled_models():
            raise ValueError(
                f"no model is bundled for task {arguments.task!r} and {metric}; bundled are {bundled_models()}, "
                "others are named by --model"
            )
    hide_bars_in_pipes()
    pipeline = ParameterUpdatePipeline.from_pretrained(name)
    if own is not None:
        pipeline.check_task(own)
    if pipeline.metric.name != metric:
        raise ValueError(
            f"{name} is prompted by {pipeline.metric.name}, not {metric}: use --prompt-{pipeline.metric.name}"
        )
    if arguments.scheduler is not None:
        pipeline.set_scheduler(arguments.scheduler)
    return pipeline


def member_asked_for(pipeline: ParameterUpdatePipeline, arguments: Arguments) -> ParameterUpdatePipeline:
    """The pipeline of the size that --hidden or the file of --start has, where the model is of a family.

    Raises:
        ValueError: the model is of one size, or the file is of another than --hidden, or of no member.
    """
    import torch

    from g_pt.networks.network_files import bare_tensors
    from g_pt.tasks import is_family
    from g_pt.tasks.family import parse_hidden

    asked = None if arguments.hidden is None else parse_hidden([arguments.hidden], torch.Generator())[0]
    if not is_family(pipeline.config.task):
        if asked is None:
            return pipeline
        raise ValueError(f"--hidden needs a model of networks of many sizes, {pipeline.config.task} has one")
    if arguments.start is None:
        return pipeline if asked is None else pipeline.member(asked)
    try:
        found = pipeline.family.hidden_of(bare_tensors(arguments.start))
    except ValueError as error:
        raise ValueError(f"{arguments.start}: {error}") from error
    if asked not in (None, found):
        raise ValueError(f"{arguments.start} has hidden layers of {found}, but --hidden is {asked}: leave it out")
    return pipeline.member(found)


def check_prompt(task: Task, metric: str) -> None:
    """Refuse a prompt for what the task does not measure."""
    if metric not in task.metrics:
        flags = " or ".join(f"--prompt-{name}" for name in task.metrics)
        raise ValueError(f"task {task.name!r} is prompted by {flags}, not --prompt-{metric}")


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
    for written in result["files"]:
        console.print(f"{'replaced' if written['replaced'] else 'written'}: {written['file']}")


if __name__ == "__main__":
    main()
