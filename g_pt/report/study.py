"""The common part of the programs in sample/: their flags, and one section measured, printed and drawn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from g_pt.command_line.parsing import parse
from g_pt.command_line.terminal import exit_on_error, hide_bars_in_pipes, show_warnings
from g_pt.tasks.data_folders import use_data_dir

if TYPE_CHECKING:
    from g_pt.report.section import Section, Subject

WIDTH = 120  # of tables where no terminal says it
PICTURES, FILMS = ("png", "pdf", "svg"), ("gif",)


@dataclass(frozen=True)
class StudyArguments:
    """Flags of every study."""

    model: str = "digits-loss"
    """Folder, bundled name or Hub repository of a G.pt."""
    out: Path = Path("study.png")
    """The picture."""
    seed: int = 0
    """Of the networks and of the sampling noise."""
    num_inference_steps: int | None = None
    """Sampling steps; the model's own default where not given."""
    task: str | None = None
    """The model's task where it is your own: path/to/file.py:Class or package.module:Class."""
    json: Path | None = None
    """Where to write the figures as JSON, too."""
    data_dir: Path | None = None
    """Folder in which image sets are looked for first."""


Arguments = TypeVar("Arguments", bound=StudyArguments)


def run_study(
    kind: type[Arguments],
    measure: Callable[[Arguments, Subject], Section],
    arguments: Sequence[str] | None = None,
    *,
    prog: str,
    description: str | None,
    formats: tuple[str, ...] = PICTURES,
) -> None:
    """Parse flags, load the model, measure, print the tables and draw the one picture of the section to `--out`.

    Exits with status 1 and one sentence where something cannot be done, 2 where a flag is wrong.

    Args:
        kind: of the flags.
        measure: the study: a section with one figure.
        arguments: of the command line; those of the process where None.
        prog: name of the program.
        description: the program's own words, with an example.
        formats: suffixes that `--out` may have.
    """
    with exit_on_error(prog):
        parsed = parse(kind, arguments, prog=prog, description=description)
        show_warnings(prog)
        use_data_dir(parsed.data_dir)
        check_outputs(parsed, formats)
        section = measure(parsed, make_subject(parsed))
        write_study(section, parsed)


def check_outputs(arguments: StudyArguments, formats: tuple[str, ...]) -> None:
    """Refuse files that could not be written after all the work."""
    from g_pt.pictures.canvas import check_picture

    check_picture(arguments.out, formats)
    for path in (arguments.out, arguments.json):
        if path is not None and path.is_dir():
            raise ValueError(f"{path} is a folder; name a file in it")


def check_counts(arguments: StudyArguments, **least: int) -> None:
    """Refuse flags below their least values: `networks=2` for --networks of at least 2."""
    for name, smallest in least.items():
        value = getattr(arguments, name)
        if value is not None and value < smallest:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {smallest}, got {value}")


def make_subject(arguments: StudyArguments) -> Subject:
    """The model and its settings, as the sections of `gpt-evaluate` take them; words on the work go to stderr."""
    from g_pt.model.pipeline import ParameterUpdatePipeline
    from g_pt.report.section import Subject
    from g_pt.tasks import get_task

    hide_bars_in_pipes()
    task = None if arguments.task is None else get_task(arguments.task)
    pipeline = ParameterUpdatePipeline.from_pretrained(arguments.model)
    if task is not None:
        pipeline.check_task(task)
    pipeline.set_progress_bar_config(disable=True)
    return Subject(
        pipeline,
        arguments.model,
        num_inference_steps=arguments.num_inference_steps,
        seed=arguments.seed,
        progress=lambda words: sys.stderr.write(f"{words} ...\n"),
    )


def write_study(section: Section, arguments: StudyArguments) -> None:
    """Print the tables, draw the picture, write the JSON file."""
    from rich.console import Console

    from g_pt.files.atomic import write_json
    from g_pt.report.document import print_section

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    print_section(section, console)
    (draw,) = section.figures.values()
    draw(arguments.out)
    if arguments.json is not None:
        write_json(arguments.json, {"model": arguments.model, "seed": arguments.seed, **section.facts})
    written = [str(path) for path in (arguments.out, arguments.json) if path is not None]
    console.print("written: " + ", ".join(written), soft_wrap=True)
