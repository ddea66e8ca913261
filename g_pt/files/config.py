"""Settings from YAML files and the command line into nested dataclasses. Imports no torch."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
import yaml

Config = TypeVar("Config")


def merge(config: Config, values: Mapping[str, Any], where: str) -> Config:
    """Replace fields of a (nested) dataclass by values of a mapping.

    Raises:
        ValueError: a key is not a field, or a value not of the field's type; the error lists the fields and
            guesses the slip, or says what came.
    """
    fields = {f.name for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    types = get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{where}: there is no setting {key!r}; settings here are {sorted(fields)}.{hint}")
        current = getattr(config, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}: {key!r} is a section of settings, got {value!r}")
            changes[key] = merge(current, value, f"{where}, section {key!r}")
        else:
            changes[key] = convert(value, types[key], f"{where}: {key!r}")
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def convert(value: Any, wanted: Any, where: str) -> Any:
    """Make a value of a field's type; YAML reads 1e-4 as a string and 1 as an int, and knows no paths and no tuples."""
    for kind in get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,):
        if type(value) is kind or (get_origin(kind) is Literal and value in get_args(kind)):
            return value
        if kind is Path and isinstance(value, str):
            return Path(value)
        if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            with suppress(ValueError):
                return float(value)
        if get_origin(kind) is tuple and get_args(kind)[-1] is ... and isinstance(value, list | tuple):
            (each, _), entries = get_args(kind), enumerate(value, start=1)
            return tuple(convert(entry, each, f"{where}, entry {i}") for i, entry in entries)
        if get_origin(kind) is tuple and isinstance(value, list | tuple) and len(value) == len(get_args(kind)):
            entries = enumerate(zip(value, get_args(kind), strict=True), start=1)
            return tuple(convert(entry, entry_kind, f"{where}, entry {i}") for i, (entry, entry_kind) in entries)
    name = wanted.__name__ if isinstance(wanted, type) else str(wanted).removeprefix("typing.")
    words = get_origin(wanted) is Literal and isinstance(value, bool)
    hint = "; put it in quotes: YAML reads no, off, yes and on as booleans" if words else ""
    raise ValueError(f"{where} must be of type {name}, got {value!r}{hint}")


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Read a YAML mapping; errors name the file."""
    if not path.is_file():
        raise ValueError(f"there is no settings file {path}")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} must hold settings as 'name: value', got {type(values).__name__}")
    return values


def preset_path(name: str, folder: Path) -> Path:
    """File of a preset; the error lists what exists."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"there is no preset {name!r}; presets are {sorted(p.stem for p in folder.glob('*.yaml'))}")
    return path


def parse_config(default: Config, arguments: Sequence[str], *, presets: Path, prog: str, description: str) -> Config:
    """Settings from defaults, then `--preset NAME` or `--config FILE`, then flags.

    Prints one line and exits with status 2 where a preset, key or value is wrong.
    """
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--preset")
    files.add_argument("--config", type=Path)
    chosen, rest = files.parse_known_args(arguments)
    try:
        for path in (chosen.preset and preset_path(chosen.preset, presets), chosen.config):
            if path:
                default = merge(default, read_yaml(path), str(path))
        return tyro.cli(type(default), args=rest, default=default, prog=prog, description=description)
    except ValueError as error:
        print(f"{prog}: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from error
