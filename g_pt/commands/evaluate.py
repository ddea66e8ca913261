"""gpt-evaluate: how well do a G.pt's updates follow prompts on networks it has never seen?

Examples:
    gpt-evaluate
    gpt-evaluate --model runs/digits/loss/pipeline --networks 64 --json report.json
    gpt-evaluate --model digits-error --figure error.png

Networks are fresh inits; achieved metrics are those of the test split, with 95 % bootstrap intervals over networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g_pt.commands.parsing import parse
from g_pt.commands.terminal import exit_on_user_error, hide_bars_in_pipes, show_warnings
from g_pt.tasks.data_folders import use_data_dir

if TYPE_CHECKING:
    from g_pt.pipeline import ParameterUpdatePipeline
    from g_pt.report.prompting import Report


@dataclass(frozen=True)
class Arguments:
    """What to evaluate."""

    model: str = "digits-loss"
    """Folder, bundled name or Hub repository of a G.pt."""
    task: str | None = None
    """The model's task where it is your own: path/to/file.py:Class or package.module:Class."""
    networks: int = 256
    """Freshly initialised networks."""
    prompts: int = 20
    """Prompts over each range."""
    prompt_range: tuple[float, float] | None = None
    """A range of prompts of your own, which the tables and the figure then take."""
    seed: int = 0
    """Of the networks and of the sampling noise."""
    num_inference_steps: int | None = None
    """Sampling steps; the model's own default where not given."""
    json: Path | None = None
    """Where to write the report as JSON."""
    figure: Path = Path("prompt_curve.png")
    """Where to draw prompted against achieved (.png)."""
    data_dir: Path | None = None
    """Folder in which image sets are looked for first."""

    def check(self) -> None:
        """Refuse outputs that could not be written after all the work."""
        if self.figure.suffix != ".png":
            raise ValueError(f"--figure must end in .png, got {self.figure}")
        for path in (self.figure, self.json):
            if path is not None and path.is_dir():
                raise ValueError(f"{path} is a folder; name a file in it")


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command."""
    with exit_on_user_error("gpt-evaluate"):
        parsed = parse(Arguments, arguments, prog="gpt-evaluate", description=__doc__)
        show_warnings("gpt-evaluate")
        parsed.check()
        use_data_dir(parsed.data_dir)
        run(parsed)


def run(arguments: Arguments) -> None:
    """Load, evaluate, print, write."""
    from g_pt.atomic_files import write_json
    from g_pt.commands.own_task import check_task_of
    from g_pt.pipeline import ParameterUpdatePipeline
    from g_pt.report.prompting import evaluate_prompting
    from g_pt.tasks import get_task

    hide_bars_in_pipes()
    task = None if arguments.task is None else get_task(arguments.task)
    pipeline = ParameterUpdatePipeline.from_pretrained(arguments.model)
    if task is not None:
        check_task_of(pipeline, task, arguments.model)
    report = evaluate_prompting(
        pipeline,
        arguments.model,
        num_networks=arguments.networks,
        num_prompts=arguments.prompts,
        seed=arguments.seed,
        num_inference_steps=arguments.num_inference_steps,
        prompt_range=arguments.prompt_range,
    )
    print_report(report)
    draw(report, pipeline, arguments.figure)
    print(f"written: {arguments.figure}")
    if arguments.json is not None:
        write_json(arguments.json, report.to_json())
        print(f"written: {arguments.json}")


def print_report(report: Report) -> None:
    """Two small tables for people."""
    from rich.console import Console
    from rich.table import Table

    facts = report.facts
    table = Table("prompt alignment", "prompts", "mean", "95 % interval")
    for name, curve in report.curves.items():
        prompts = f"{curve.prompts[0]:.3g} to {curve.prompts[-1]:.3g}"
        interval = curve.alignment
        table.add_row(name, prompts, f"{interval.mean:.3f}", f"{interval.low:.3f} to {interval.high:.3f}")
    metrics = list(report.one_update)
    quality = Table("", *(m.replace("_", " ") for m in metrics))
    quality.add_row("before", *(str(report.starting[m]) for m in metrics))
    quality.add_row(f"one update, prompt {report.best_prompt:.3g}", *(str(report.one_update[m]) for m in metrics))
    quality.add_row("trained runs", *(f"{facts['trained_runs'][m]['mean']:.4g}" for m in metrics))
    console = Console(highlight=False)
    console.print(f"{facts['model']}: {facts['networks']} unseen inits, {facts['num_inference_steps']} sampling steps")
    console.print(table)
    console.print(quality)
    if "measurement" in facts:
        console.print(measurement_line(facts["measurement"]))


def measurement_line(measurement: dict[str, Any]) -> str:
    """How policies were measured, and how exactly."""
    errors = ", ".join(f"{value:.3g} of {name}" for name, value in measurement["standard_error"].items())
    return (
        f"{measurement['episodes']} episodes per policy and prompt in {measurement['environment']} "
        f"({measurement['simulator']}), actions: {measurement['actions']}; mean standard error {errors}"
    )


def draw(report: Report, pipeline: ParameterUpdatePipeline, path: Path) -> None:
    """The prompt curve over the first range."""
    from g_pt.figures import save_prompt_curve

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


if __name__ == "__main__":
    main()
