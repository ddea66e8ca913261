"""The report as files: Markdown with its pictures in one folder, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from g_pt.command_line.output import without_nan
from g_pt.files.atomic import atomic_path, read_json
from g_pt.files.schema import Whole, brief, read_object, read_value
from g_pt.hub.download import REPORT_FILE
from g_pt.report.section import Section

MAX_REPORT_BYTES = 100_000_000


@dataclass(frozen=True)
class Mean:
    """An entry of a report that the card of a model shows; None where it could not be measured."""

    mean: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def from_json(cls, value: Any) -> Mean:
        """Read it from among the entries of newer versions."""
        return read_object(cls, value, "a measurement", ignore_unknown=True)


@dataclass(frozen=True)
class Novelty:
    """The section on novelty, as far as the card shows it."""

    training_runs: Whole
    rows: dict[str, dict[str, Mean | Any]]

    @classmethod
    def from_json(cls, value: Any) -> Novelty:
        """Read it from among the entries of newer versions."""
        return read_object(cls, value, "novelty", ignore_unknown=True)


@dataclass(frozen=True)
class Measured:
    """What the card of a model takes from a report."""

    prompt_alignment: dict[str, Mean]
    one_update: dict[str, Mean | float | None] = field(default_factory=dict)
    starting: dict[str, Mean | float | None] = field(default_factory=dict)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    beside_runs: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "novelty" in self.sections:
            read_value(Novelty, self.sections["novelty"], "sections")


def write_document(
    sections: Sequence[Section], title: str, lead: str, folder: Path, picture_format: str = "png"
) -> Path:
    """Draw all pictures into a folder and write report.md beside them; returns its path.

    Args:
        sections: in the order of the document.
        title: the heading.
        lead: sentences below it, on what was evaluated and how.
        folder: made where it does not exist.
        picture_format: "png", "pdf" or "svg"; films stay GIFs.
    """
    parts = [f"# {title}\n", f"{lead}\n"]
    for section in sections:
        parts.append(f"## {section.title}\n")
        parts += [table.markdown() for table in section.tables]
        parts += [f"- {note}" for note in section.notes]
        parts.append("")
        for figure, draw in section.figures.items():
            name = figure if figure.endswith(".gif") else str(Path(figure).with_suffix("." + picture_format))
            draw(folder / name)
            parts.append(f"![{section.title} ({Path(name).stem.replace('_', ' ')})]({name})\n")
    path = folder / "report.md"
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(parts).rstrip() + "\n")
    return path


def print_section(section: Section, console: Any) -> None:
    """Print its tables and notes to a console of rich."""
    from rich.markup import escape
    from rich.table import Table

    console.print(f"\n[bold]{escape(section.title)}[/bold]")
    for table in section.tables:
        shown = Table(*map(escape, table.columns), title=escape(table.title), title_justify="left")
        for row in table.rows:
            shown.add_row(*map(escape, row))
        console.print(shown)
    for note in section.notes:
        console.print(escape(note), style="dim")


def report_json(sections: Sequence[Section], facts: dict[str, Any]) -> dict[str, Any]:
    """All facts: those of the model and of prompting at the top, those of every other section under its name."""
    prompting = next((section.facts for section in sections if section.name == "prompting"), {})
    others = {section.name: section.facts for section in sections if section.name != "prompting"}
    return {**facts, **prompting, "sections": others}


def saved_report(folder: Path) -> dict[str, Any] | None:
    """The report beside a model, where `gpt-evaluate --json FOLDER/report.json` put one.

    Raises:
        ValueError: the file is no report.
    """
    path = folder / REPORT_FILE
    return read_report(path) if path.exists() else None


def read_report(path: Path) -> dict[str, Any]:
    """Read a report of `gpt-evaluate --json FILE`.

    Raises:
        ValueError: the file is no report.
    """
    report = without_nan(read_json(path, max_bytes=MAX_REPORT_BYTES))
    if not isinstance(report, dict) or "prompt_alignment" not in report:
        raise ValueError(f"{path} must be a report of gpt-evaluate --json; got {brief(report)}")
    read_object(Measured, report, str(path), ignore_unknown=True)
    return report
