"""Tables of checkpoints and their metrics as people have them: commas, semicolons or tabs, UTF-8 or UTF-16, gzipped.

    file,run,step,loss,error
    seed0/init.pt,seed0,0,2.31,90.2%
    seed0/step100.safetensors,seed0,100,0.42,11.0

Lines that begin with # and empty ones are skipped; columns may be in any case and order, and more than are read.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from g_pt.files.compressed import read_unpacked
from g_pt.files.schema import LARGEST, brief, one_line
from g_pt.networks.metrics import Metric

FILE, RUN, STEP = "file", "run", "step"
DELIMITERS = ",;\t|"
MAX_BYTES = 100_000_000  # of a table: a line for each of a million checkpoints
MAX_LINE = 1_000_000  # characters: a longer one is no row of metrics
MAX_STEP = 10**15
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
ENCODINGS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class CheckpointRow:
    """One line of the table.

    Attributes:
        path: of the state dict.
        run: name of the run.
        step: optimizer steps taken.
        metrics: `{metric: value}` on the validation split.
        line: of the table, for messages.
    """

    path: Path
    run: str
    step: int
    metrics: dict[str, float]
    line: int


def read_table(path: Path, folder: Path, metrics: Mapping[str, Metric]) -> list[CheckpointRow]:
    """Read and check every line.

    Args:
        path: of the table.
        folder: that its files begin in.
        metrics: columns that are wanted.

    Raises:
        ValueError: a column or a cell is missing, or comes twice, or is no number; the message names the line.
        OSError: the table, the folder or a file is missing.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no table {path}")
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    place = [0]
    lines = kept_lines(decode_text(path), place)
    try:
        header = next(lines, "")
        delimiter = max(DELIMITERS, key=header.count)  # the first of equals: a comma
        reader = csv.reader(chain([header], lines), delimiter=delimiter)
        names = next(reader, [])
        columns = find_columns(path, names, [FILE, RUN, STEP, *metrics])
        rows = []
        for cells in reader:
            where = f"{path}, line {place[0]}"
            if any(cell.strip() for cell in cells[len(names) :]):
                raise ValueError(
                    f"{where} has {len(cells)} cells, the table has {len(names)} columns: quote {delimiter!r}"
                )
            texts = {name: cells[i].strip() if i < len(cells) else "" for name, i in columns.items()}
            if delimiter != ",":  # where cells are not parted by commas, numbers may have them
                texts |= {name: texts[name].replace(",", ".") for name in (STEP, *metrics)}
            rows.append(read_row(where, place[0], texts, folder, metrics))
    except csv.Error as error:
        raise ValueError(f"{path} is no valid CSV: {one_line(str(error))}") from error
    if not rows:
        raise ValueError(f"{path} names no files: it has a header and nothing below")
    return rows


def kept_lines(text: str, place: list[int]) -> Iterator[str]:
    """Lines that are neither empty nor comments; `place` always has the number of the last one."""
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if len(line) > MAX_LINE:
            raise csv.Error(f"line {number} has {len(line):,} characters, the limit is {MAX_LINE:,}")
        if line.strip() and not line.lstrip().startswith("#"):
            place[0] = number
            yield line


def decode_text(path: Path) -> str:
    """The text of a file, unpacked and decoded."""
    data = read_unpacked(path, MAX_BYTES)
    encoding = next((name for mark, name in ENCODINGS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 or UTF-16: {error.reason} at byte {error.start}") from error


def find_columns(path: Path, header: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    """Place of each wanted column, whatever its case."""
    names = [name.strip() for name in header]
    places, missing = {}, []
    for name in wanted:
        found = [i for i, other in enumerate(names) if other == name]
        found = found or [i for i, other in enumerate(names) if other.casefold() == name.casefold()]
        if len(found) > 1:
            raise ValueError(f"{path} has the column {name!r} {len(found)} times: rename all but one")
        if found:
            places[name] = found[0]
        else:
            missing.append(name)
    if missing:
        raise ValueError(
            f"{path} must have the columns {list(wanted)}; {missing} are missing, it has {brief(names, 300)}"
        )
    return places


def read_row(
    where: str, line: int, texts: Mapping[str, str], folder: Path, metrics: Mapping[str, Metric]
) -> CheckpointRow:
    """One line of the table, from its cells by column."""
    if empty := [name for name, text in texts.items() if not text]:
        raise ValueError(f"{where}: {empty[0]} is empty")
    file = folder / texts[FILE]
    if not file.is_file() and "\\" in texts[FILE]:  # written on Windows
        file = folder / texts[FILE].replace("\\", "/")
    if not file.is_file():
        raise FileNotFoundError(f"{where}: there is no file {one_line(str(file))}")
    step = number(texts[STEP], STEP, where)
    if not 0 <= step <= MAX_STEP or step != int(step):
        raise ValueError(f"{where}: step must be a whole number from 0 on, got {brief(texts[STEP])}")
    values = {name: metric_value(texts[name], metric, where) for name, metric in metrics.items()}
    return CheckpointRow(file, texts[RUN], int(step), values, line)


def metric_value(text: str, metric: Metric, where: str) -> float:
    """A value of a metric; one in % may say so."""
    if metric.unit == "%":
        text = text.removesuffix("%").rstrip()
    value = number(text, metric.name, where)
    if value < 0 and metric.transform != "identity":
        raise ValueError(
            f"{where}: {metric.name} must not be negative, since the model sees its {metric.transform}, got {text!r}"
        )
    return value


def number(text: str, name: str, where: str) -> float:
    """A finite number of a float32's range, in the digits 0 to 9."""
    if NOT_FINITE.fullmatch(text):
        raise ValueError(f"{where}: {name} must be finite, got {text!r}; leave diverged runs out of the table")
    if not NUMBER.fullmatch(text):
        hint = "; give it as a plain number" if text[-1:] == "%" or "_" in text else ""
        raise ValueError(f"{where}: {name} must be a number, got {brief(text)}{hint}")
    value = float(text)
    if abs(value) > LARGEST:
        raise ValueError(f"{where}: {name} must be finite in float32, got {brief(text)}; leave diverged runs out")
    return value
