"""gpt-evaluate: is this G.pt any good, on networks that it has never seen?

Examples:
    gpt-evaluate --quick
    gpt-evaluate --model runs/digits/loss/pipeline --dataset runs/digits/checkpoints --out evaluation
    gpt-evaluate --model digits-error --sections prompting optimizers --json report.json
    gpt-evaluate --bundled --out evaluation

Networks are fresh inits; achieved metrics are those of the test split, choices are made on the validation split, and
intervals are 95 % bootstrap intervals over networks. Every section is written when it is finished; a call that was
stopped goes on there when it is given again. docs/evaluation.md says what every section means and costs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from g_pt.command_line.output import check_writable, without_nan
from g_pt.command_line.parsing import parse
from g_pt.command_line.terminal import exit_on_error, hide_bars_in_pipes, show_warnings
from g_pt.tasks.data_folders import use_data_dir

if TYPE_CHECKING:
    from g_pt.evaluation.runs import ReferenceRuns
    from g_pt.model.pipeline import ParameterUpdatePipeline
    from g_pt.report.progress import UnfinishedReport
    from g_pt.report.section import Section, Subject


LARGEST = 3.4e38  # of float32
WIDTH = 160  # of tables where no terminal says it


@dataclass(frozen=True)
class Arguments:
    """Settings of gpt-evaluate."""

    model: str = "digits-loss"
    """Folder, bundled name or Hub repository of a G.pt."""
    bundled: bool = False
    """Every bundled model, each in a folder of its own."""
    task: str | None = None
    """The model's task where it is your own: path/to/file.py:Class or package.module:Class."""
    sections: tuple[str, ...] = ()
    """Which sections: prompting, recursion, samples, inits, optimizers, population, novelty, start_use, landscape,
    sizes, latent_walk; all where not given."""
    quick: bool = False
    """A first look: 16 networks, 5 prompts, 100 steps of the optimizers, and no runs but those of --dataset."""
    networks: int | None = None
    """Freshly initialised networks; 256 where not given. Sections that cost more take a part of them and say so."""
    prompts: int | None = None
    """Prompts over each range; 20 where not given."""
    hidden: tuple[str, ...] = ()
    """Sizes of section sizes, 16 24,12 or 8..64:5, where the model is of a family; where not given, those harvested and
    some between them."""
    prompt_range: tuple[float, float] | None = None
    """A range of prompts of your own, which the tables and the figure of prompting then take."""
    optimizer_steps: int | None = None
    """Steps of the optimizers that one update is compared with; 1,000 where not given."""
    seed: int = 0
    """Of the networks and of the sampling noise."""
    num_inference_steps: int | None = None
    """Sampling steps; the model's own default where not given."""
    dataset: Path | None = None
    """Checkpoint dataset that the model was trained on; where not given it is harvested again, once, into a cache."""
    out: Path = Path("evaluation")
    """Folder for report.md and its pictures."""
    json: Path | None = None
    """Where to write the report as JSON; report.json in the folder where not given."""
    figure: Path | None = None
    """Where to draw prompted against achieved once more (.png, .pdf, .svg)."""
    format: Literal["png", "pdf", "svg"] = "png"
    """Of the pictures of the report; films are GIFs."""
    data_dir: Path | None = None
    """Folder in which image sets are looked for first."""

    def check(self) -> None:
        """Refuse what could not be done or written after all the work."""
        from g_pt.report.contents import load_section

        if self.figure is not None and self.figure.suffix.lower() not in (".png", ".pdf", ".svg"):
            raise ValueError(f"--figure must end in .png, .pdf or .svg, got {self.figure}")
        for path in (self.figure, self.json):
            if path is not None and path.is_dir():
                raise ValueError(f"{path} is a folder; name a file in it")
        for flag, file in (("--figure", self.figure), ("--json", self.json), ("--out", self.out)):
            if file is not None:
                check_writable(file, flag)
        if self.prompt_range is not None:
            low, high = self.prompt_range
            if not -LARGEST < low < high < LARGEST:  # NaN is not
                raise ValueError(
                    f"--prompt-range must be two numbers of float32, the smaller first, got {low:g} and {high:g}"
                )
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--out must be a folder, {self.out} is a file")
        if self.dataset is not None and not self.dataset.is_dir():
            raise ValueError(f"--dataset must be the folder of a dataset, there is none at {self.dataset}")
        if self.bundled and (self.figure or self.json or self.dataset):
            raise ValueError("--bundled evaluates several models: leave out --figure, --json and --dataset")
        for name in self.sections:
            load_section(name)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command."""
    with exit_on_error("gpt-evaluate"):
        parsed = parse(Arguments, arguments, prog="gpt-evaluate", description=__doc__)
        show_warnings("gpt-evaluate")
        use_data_dir(parsed.data_dir)
        parsed.check()
        run(parsed)


def run(arguments: Arguments) -> None:
    """Evaluate one model, or every bundled one."""
    from g_pt.hub.download import bundled_models

    hide_bars_in_pipes()
    if not arguments.bundled:
        evaluate(arguments)
        return
    for model in bundled_models():
        evaluate(replace(arguments, model=model, out=arguments.out / model))


def evaluate(arguments: Arguments) -> None:
    """Load, measure section by section, print, write after each; go on where a call before this one was stopped."""
    from rich.console import Console

    from g_pt.model.pipeline import ParameterUpdatePipeline
    from g_pt.report.contents import SECTIONS
    from g_pt.report.document import print_section
    from g_pt.tasks import get_task

    started = time.perf_counter()
    task = None if arguments.task is None else get_task(arguments.task)
    pipeline = ParameterUpdatePipeline.from_pretrained(arguments.model)
    if task is not None:
        pipeline.check_task(task)
    pipeline.set_progress_bar_config(disable=True)
    output = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    status = Console(stderr=True).status("")
    subject = make_subject(arguments, pipeline, status.update)
    unfinished = unfinished_report(arguments, subject)
    names = list(dict.fromkeys(arguments.sections or SECTIONS))
    sections: dict[str, Section] = {}
    seconds: dict[str, float] = {}
    before = 0.0
    written: list[Path] = []
    for done, name in enumerate(names, start=1):
        kept = unfinished.load(name)
        if kept is None:
            status.update(name)
            with status:
                section, seconds[name] = measure_section(name, arguments, subject)
                section = unfinished.keep(name, section, seconds[name])
        else:
            section, seconds[name] = kept
            before += seconds[name]
        if section is None:
            output.print(f"\n{name}: not for this model, or not without its training runs")
        else:
            sections[name] = section
            print_section(section, output)
        total = round(time.perf_counter() - started + before, 1)
        written = write_report(arguments, pipeline, list(sections.values()), seconds, total, names[done:])
    if arguments.figure is not None and "prompting" in sections:
        sections["prompting"].figures["prompting.png"](arguments.figure)
        written.append(arguments.figure)
    unfinished.finish()
    print("written: " + ", ".join(str(path) for path in written))


def unfinished_report(arguments: Arguments, subject: Subject) -> UnfinishedReport:
    """Sections that a call before this one has finished, if it was stopped and asked for the same."""
    from g_pt.report.progress import UnfinishedReport, report_key

    formats = {arguments.format} | ({arguments.figure.suffix[1:].lower()} if arguments.figure else set())
    settings = {
        "prompt_range": arguments.prompt_range,
        "hidden": arguments.hidden,
        "dataset": arguments.dataset,
        "formats": sorted(formats),
    }
    unfinished = UnfinishedReport(arguments.out, report_key(subject, settings), sorted(formats))
    if unfinished.continued:
        print(f"gpt-evaluate: continuing the unfinished report in {arguments.out}", file=sys.stderr)
    if unfinished.discarded:
        print(
            f"gpt-evaluate: the unfinished report in {arguments.out} is of other weights, settings or another seed: "
            "starting anew",
            file=sys.stderr,
        )
    return unfinished


def measure_section(name: str, arguments: Arguments, subject: Subject) -> tuple[Section | None, float]:
    """One section, None where the model cannot be asked it, and its seconds."""
    from functools import partial

    from g_pt.report.contents import load_section

    measure = load_section(name)
    if name == "prompting":  # two sections have a setting of their own
        measure = partial(measure, prompt_range=arguments.prompt_range)  # type: ignore[call-arg]
    if name == "sizes":
        measure = partial(measure, hidden=arguments.hidden)  # type: ignore[call-arg]
    started = time.perf_counter()
    section = measure(subject)
    return section, round(time.perf_counter() - started, 1)


def write_report(
    arguments: Arguments,
    pipeline: ParameterUpdatePipeline,
    sections: list[Section],
    seconds: dict[str, float],
    total: float,
    missing: list[str],
) -> list[Path]:
    """Write document and JSON of the sections that are finished, naming those that are missing; returns the files."""
    from g_pt.files.atomic import write_json
    from g_pt.report.document import report_json, write_document

    lead = opening_sentence(arguments, pipeline, total)
    lead += f" Not finished: {', '.join(missing)}." if missing else ""
    title = f"{arguments.model} on {pipeline.task.name}"
    document = write_document(sections, title, lead, arguments.out, arguments.format)
    facts = {"model": arguments.model, "task": pipeline.task.name, "metric": pipeline.metric.name}
    report = report_json(sections, facts) | {"seconds": total, "seconds_of_sections": seconds}
    file = arguments.json or arguments.out / "report.json"
    write_json(file, without_nan(report | ({"unfinished": missing} if missing else {})))
    return [document, file]


def make_subject(arguments: Arguments, pipeline: ParameterUpdatePipeline, progress: Callable[[str], object]) -> Subject:
    """Make the subject of the report: model, sizes, runs."""
    from g_pt.report.contents import SECTIONS, USE_RUNS
    from g_pt.report.section import Subject

    usual = (16, 5, 100) if arguments.quick else (256, 20, 1000)
    given = (arguments.networks, arguments.prompts, arguments.optimizer_steps)
    networks, prompts, steps = (u if g is None else g for g, u in zip(given, usual, strict=True))
    if networks < 2 or prompts < 2 or steps < 1:
        raise ValueError(
            f"at least 2 networks and 2 prompts and 1 optimizer step are needed, got {networks}, {prompts} and {steps}"
        )
    wanted = USE_RUNS & set(arguments.sections or SECTIONS)
    return Subject(
        pipeline,
        arguments.model,
        num_networks=networks,
        num_prompts=prompts,
        num_inference_steps=arguments.num_inference_steps,
        seed=arguments.seed,
        runs=load_runs(arguments, pipeline) if wanted else None,
        optimizer_steps=steps,
        progress=progress,
    )


def load_runs(arguments: Arguments, pipeline: ParameterUpdatePipeline) -> ReferenceRuns | None:
    """The runs of the dataset, or of one harvested again; None, with a word of it, where there is no way to them."""
    if arguments.dataset is None and arguments.quick:
        return None
    from checkpoints_dataset.reference_runs import reference_runs, reference_store, same_runs
    from checkpoints_dataset.store import CheckpointStore

    facts, metric = pipeline.facts, pipeline.metric.name
    try:
        if arguments.dataset is None:
            store = reference_store(facts)
        else:
            store = CheckpointStore(arguments.dataset, verify=False)
            store.check_task(pipeline.task)
    except ValueError as error:
        if arguments.dataset is not None:
            raise
        print(f"gpt-evaluate: without the training runs: {error}", file=sys.stderr)
        return None
    if not same_runs(store, facts, metric):
        print("gpt-evaluate: these runs are like those of the model's training, but not the same", file=sys.stderr)
    return reference_runs(store, metric, max_runs=facts.dataset.num_runs)


def opening_sentence(arguments: Arguments, pipeline: ParameterUpdatePipeline, seconds: float) -> str:
    """First lines of the document."""
    runs = pipeline.facts.dataset.num_runs or "an unknown number of"
    steps = arguments.num_inference_steps or pipeline.config.num_inference_steps
    return (
        f"One update samples new parameters of a network for a prompted {pipeline.metric.name} in {steps} sampling "
        f"steps. The model learned from {runs} runs. Networks are fresh inits that it has never seen (seed "
        f"{arguments.seed}); metrics are those of the test split, choices were made on the validation split; brackets "
        f"are 95 % bootstrap intervals over networks. All of it took {seconds:.0f} s."
    )


if __name__ == "__main__":
    main()
