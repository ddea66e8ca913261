"""Fields of settings whose class is chosen by name, such as `rule: adam`. A class is imported when it is chosen."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar, get_type_hints

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True, eq=False)
class ChosenFrom:
    """Mark of a field that holds an instance of one dataclass of a registry.

        rule: Annotated[Any, ChosenFrom(RULES)] = "adam"

    The default is a name, or an instance where importing its module costs nothing. `with_choices` makes instances of
    names; `parse` and `merge` do so too.

    Attributes:
        registry: name -> "module:Class"; every setting of a class has a default, and none is called `name`.
        several: "module:Class" of what several of them are together, made of a tuple of them; None: one is all.
    """

    registry: Mapping[str, str]
    several: str | None = None

    def make(self, name: str, where: str) -> Any:
        """Make an instance with default settings; the error lists the names that exist, and guesses the slip."""
        if name not in self.registry:
            raise ValueError(f"{where}: there is no {name!r}; there are {sorted(self.registry)}.{guess(name, self)}")
        return imported(self.registry[name])()

    def together(self, chosen: Sequence[Any], where: str) -> Any:
        """What several instances are together.

        Raises:
            ValueError: one is all that can be chosen.
        """
        if self.several is None:
            raise ValueError(f"{where} must be one of {sorted(self)}, got {len(chosen)}")
        return imported(self.several)(tuple(chosen))

    def name_of(self, value: Any) -> str:
        """Name of an instance's class, or the name itself."""
        if isinstance(value, str):
            return value
        target = f"{type(value).__module__}:{type(value).__qualname__}"
        for name, registered in self.registry.items():
            if registered == target:
                return name
        if target == self.several:
            return "several"
        raise ValueError(f"{target} is not registered; there are {sorted(self.registry)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.registry)


def imported(target: str) -> Any:
    """A class from "module:Class"."""
    module, _, kind = target.partition(":")
    return getattr(import_module(module), kind)


def guess(name: object, known: Collection[str] | ChosenFrom) -> str:
    """' Did you mean ...?' where a known name is close, else nothing."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def marked_fields(kind: type) -> dict[str, ChosenFrom]:
    """Fields of a dataclass that are chosen by name."""
    hints = get_type_hints(kind, include_extras=True)
    marks = {
        field.name: [mark for mark in getattr(hints[field.name], "__metadata__", ()) if isinstance(mark, ChosenFrom)]
        for field in dataclasses.fields(kind)
    }
    return {name: found[0] for name, found in marks.items() if found}


def with_choices(config: Config) -> Config:
    """Settings in which every name of a choice is replaced by an instance, in nested settings too."""
    marks, changes = marked_fields(type(config)), {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = current = getattr(config, field.name)
        if field.name in marks and isinstance(value, str):
            value = marks[field.name].make(value, field.name)
        if is_settings(value):
            value = with_choices(value)
        if value is not current:
            changes[field.name] = value
    return dataclasses.replace(config, **changes) if changes else config  # type: ignore[type-var]


def choices(config: Any, prefix: str = "") -> Iterator[tuple[str, ChosenFrom, Any]]:
    """Every choice in nested settings that `with_choices` has made: its dotted name, mark and instance, outer first."""
    marks = marked_fields(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in marks:
            yield prefix + field.name, marks[field.name], value
        if is_settings(value):
            yield from choices(value, f"{prefix}{field.name}.")


def choose(config: Config, dotted: str, names: Sequence[str]) -> Config:
    """Settings with another choice, the last of the names or, where several can be chosen, all of them together.

    Settings of the choice are kept where it is the same as before.
    """
    field, _, inner = dotted.partition(".")
    current = getattr(config, field)
    if inner:
        return dataclasses.replace(config, **{field: choose(current, inner, names)})  # type: ignore[type-var]
    mark = marked_fields(type(config))[field]
    chosen = [chosen_or_kept(mark, name, current, field) for name in names]
    one = chosen[-1] if len(chosen) == 1 or mark.several is None else mark.together(chosen, field)
    return dataclasses.replace(config, **{field: one})  # type: ignore[type-var]


def chosen_or_kept(mark: ChosenFrom, name: str, current: Any, where: str) -> Any:
    """The instance that there is, if it has this name, else a new one with default settings."""
    kept = is_settings(current) and mark.name_of(current) == name
    return current if kept else with_choices(mark.make(name, where))


def is_settings(value: object) -> bool:
    """Whether a value is nested settings."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)
