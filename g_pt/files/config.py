"""Settings of a mapping, such as a YAML file, into nested dataclasses. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from g_pt.files.choices import ChosenFrom, chosen_or_kept, guess, marked_fields, with_choices

Config = TypeVar("Config")


def check_at_least(config: Any, **lowest: float) -> None:
    """Refuse settings below their lowest value; None is none.

    Raises:
        ValueError: the message names the setting.
    """
    for name, low in lowest.items():
        value = getattr(config, name)
        if value is not None and not value >= low:  # NaN is not
            raise ValueError(f"{name} must be at least {low}, got {value}")


def merge(config: Config, values: Mapping[str, Any], where: str) -> Config:
    """Replace fields of a (nested) dataclass by values of a mapping; keys have underscores or hyphens.

    A field that is chosen by name (`ChosenFrom`) takes the name, or a section with the name and settings of the choice.
    A class may have a static method `current_settings`, which makes present settings of those of earlier releases.

    Raises:
        ValueError: a key is not a field, or a value not of the field's type; the error lists the fields and
            guesses the slip, or says what came.
    """
    config = with_choices(config)
    fields = {f.name for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    types, marks = get_type_hints(type(config)), marked_fields(type(config))
    changes: dict[str, Any] = {}
    for given, value in getattr(type(config), "current_settings", dict)(values).items():
        key = given.replace("-", "_") if isinstance(given, str) else given
        if key not in fields:
            raise ValueError(
                f"{where}: there is no setting {given!r}; settings here are {sorted(fields)}.{guess(key, fields)}"
            )
        if key in changes:
            raise ValueError(f"{where}: {key!r} stands twice, with a hyphen and with an underscore")
        current = getattr(config, key)
        if key in marks:
            changes[key] = merge_choice(marks[key], current, value, f"{where}, section {key!r}")
        elif dataclasses.is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}: {key!r} is a section of settings, got {value!r}")
            changes[key] = merge(current, value, f"{where}, section {key!r}")
        else:
            changes[key] = convert(value, types[key], f"{where}: {key!r}")
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def merge_choice(mark: ChosenFrom, current: Any, value: Any, where: str) -> Any:
    """A choice by name, by settings of the one that there is, or by both; a list for several together."""
    if isinstance(value, list | tuple):
        entries = [{"name": entry} if isinstance(entry, str) else entry for entry in value]
        if not all(isinstance(entry, Mapping) and "name" in entry for entry in entries):
            raise ValueError(f"{where}: each of several must be a name, or settings with a name, got {value!r}")
        return mark.together([merge_choice(mark, current, entry, where) for entry in entries], where)
    settings = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = settings.pop("name", mark.name_of(current))
    if not isinstance(name, str):
        raise ValueError(f"{where} must be one of {sorted(mark)}, or settings with such a name, got {value!r}")
    return merge(chosen_or_kept(mark, name, current, where), settings, f"{where}, {name}")


def convert(value: Any, wanted: Any, where: str) -> Any:
    """Make a value of a field's type; YAML reads 1e-4 as a string and 1 as an int, and knows no paths and no tuples."""
    for kind in get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,):
        if type(value) is kind or (get_origin(kind) is Literal and value in get_args(kind)):
            return value
        if kind is Path and isinstance(value, str):
            return Path(value)
        if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            with suppress(ValueError, OverflowError):
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
