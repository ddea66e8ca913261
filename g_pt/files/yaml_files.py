"""YAML files of settings: small, shallow, one line about what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_VALUES = 20_000  # aliases count as what they stand for


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Read a YAML mapping; errors name the file, the line and the column in one sentence.

    Raises:
        ValueError: there is no such file, it is not YAML, no mapping, has a key twice, or is larger, deeper or has more
            values than settings can (aliases counted as what they stand for), which is found before it is built.
    """
    if not path.is_file():
        raise ValueError(f"there is no settings file {path}")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path} must have at most {MAX_BYTES:,} bytes to be a file of settings, it has {size:,}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8: {error.reason} at byte {error.start}") from error
    return read_yaml_text(text, str(path))


def read_yaml_text(text: str, where: str) -> Mapping[str, Any]:
    """Read a mapping from YAML; raises as `read_yaml` does, with errors that begin with `where`."""
    try:
        check_size(text, where)
        values = yaml.load(text, Loader=Settings)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not valid YAML: {in_one_line(error)}") from error
    except (OverflowError, ValueError) as error:  # a date such as 2024-13-45, an integer of 5,000 digits
        raise ValueError(f"{where}: {error}" if where not in str(error) else str(error)) from error
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must hold settings as 'name: value', got {type(values).__name__}")
    return values


def check_size(text: str, path: str) -> None:
    """Refuse nesting and multiplication by aliases before anything is built of them."""
    sizes: dict[str, int] = {}  # values under each anchor
    begun: list[tuple[str | None, int]] = []  # anchor and count at the start of every collection around
    count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in {anchor for anchor, _ in begun}:
                raise ValueError(f"{path}: the alias *{event.anchor}{place(event)} stands within what it stands for")
            count += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            begun.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, start = begun.pop()
            sizes |= {} if anchor is None else {anchor: count - start}
        elif isinstance(event, yaml.ScalarEvent):
            sizes |= {} if event.anchor is None else {event.anchor: 1}
            count += 1
        if len(begun) > MAX_DEPTH:
            raise ValueError(f"{path} must be nested at most {MAX_DEPTH} deep{place(event)}")
        if count > MAX_VALUES:
            raise ValueError(f"{path} must have at most {MAX_VALUES:,} values, aliases expanded{place(event)}")


class Settings(yaml.SafeLoader):
    """YAML in which a key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; a key that stands twice is an error."""
        names = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in names:
                said = f"the key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
            names |= {key.value} if isinstance(key, yaml.ScalarNode) and key.value != "<<" else set()
        return super().construct_mapping(node, deep)


def in_one_line(error: yaml.YAMLError) -> str:
    """Problem, line and column of an error that YAML tells in up to ten lines."""
    if isinstance(error, yaml.MarkedYAMLError):
        said = error.problem or error.context or "it cannot be read"
        mark = error.problem_mark or error.context_mark
        return said if mark is None else f"{said}, line {mark.line + 1}, column {mark.column + 1}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"{error.reason} at character {error.position}"
    return " ".join(str(error).split())


def place(event: yaml.Event) -> str:
    """Line and column of an event."""
    mark = event.start_mark
    return "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
