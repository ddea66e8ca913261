"""How flags look: optional ones by the type of their value, choices by name, files of settings beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from g_pt.files.choices import choices, choose, guess, is_settings


def flag_rules(extra: Mapping[type, Sequence[StructFieldSpec]]) -> ConstructorRegistry:
    """Rules for tyro: optional flags without `{None}|`, and flags that classes have beside their fields.

    Args:
        extra: such flags of each class, which are listed in the help and in completions, and dropped.
    """
    rules = ConstructorRegistry()
    rules.primitive_rule(optional_flag)
    busy: list[type] = []

    @rules.struct_rule
    def with_extra(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type not in extra or info.type in busy:
            return None
        busy.append(info.type)
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            busy.pop()
        if not isinstance(spec, StructConstructorSpec):
            return None
        names, make = {field.name for field in extra[info.type]}, spec.instantiate
        return StructConstructorSpec(
            lambda **values: make(**{name: value for name, value in values.items() if name not in names}),
            (*extra[info.type], *spec.fields),
        )

    return rules


def optional_flag(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """`FLOAT`, not `{None}|FLOAT`, for `float | None`; the word None is taken as before."""
    kinds = get_args(info.type)
    if get_origin(info.type) not in (Union, UnionType) or len(kinds) != 2 or NoneType not in kinds:
        return None
    inner = next(kind for kind in kinds if kind is not NoneType)
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(inner, info.markers))
    if not isinstance(spec, PrimitiveConstructorSpec) or not isinstance(spec.nargs, int):
        return None
    take, show, known = spec.instance_from_str, spec.str_from_instance, spec.is_instance
    return dataclasses.replace(
        spec,
        nargs=spec.nargs if spec.nargs == 1 else (1, spec.nargs),
        instance_from_str=lambda texts: None if texts == ["None"] else take(texts),
        str_from_instance=lambda value: ["None"] if value is None else show(value),
        is_instance=lambda value: value is None or known(value),
        choices=None if spec.choices is None else (*spec.choices, "None"),
    )


def settings_flags(presets: Iterable[str]) -> list[StructFieldSpec]:
    """Flags that name files of settings, for the help."""
    config = StructFieldSpec("config", optional(Path), None, "Settings of a YAML file; flags count over it.")
    names = tuple(sorted(presets))
    if not names:
        return [config]
    preset = optional(Literal[names])
    return [StructFieldSpec("preset", preset, None, "Settings that come with g-pt; --config counts over them."), config]


def optional(kind: Any) -> Any:
    """Type of a flag that need not be there."""
    return kind | None


def choice_flags(config: Any) -> dict[type, list[StructFieldSpec]]:
    """The flag that names each choice, for the help: `--rule {adam,sgd}` beside `--rule.learning-rate`."""
    return {
        type(value): [
            StructFieldSpec(
                "name of the choice",
                Annotated[Literal[tuple({**mark.registry, mark.name_of(value): ""})], tyro.conf.arg(name="")],  # type: ignore[arg-type]
                mark.name_of(value),
                "Which; its settings follow." + (" Several times for several together." if mark.several else ""),
            )
        ]
        for _, mark, value in choices(config)
    }


def choose_by_flags(config: Any, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Settings with the choices that flags name, such as `--rule adam`, and the other flags.

    Raises:
        ValueError: a name does not exist, or a flag is no setting of what was chosen; the error lists what exists.
    """
    rest, taken = list(arguments), set[str]()
    while waiting := [dotted for dotted, _, _ in choices(config) if dotted not in taken]:
        names, rest = take_flag(rest, waiting[0])  # a choice may have choices of its own: look again after each
        taken.add(waiting[0])
        if names:
            config = choose(config, waiting[0], names)
    for argument in rest:
        check_renamed(config, argument.partition("=")[0])
        check_setting(config, argument.partition("=")[0])
    return config, rest


def take_flag(arguments: Sequence[str], dotted: str) -> tuple[list[str], list[str]]:
    """Take every `--dotted VALUE` out of the flags: the values, and the other flags."""
    values, rest, remaining = list[str](), list[str](), iter(arguments)
    for argument in remaining:
        flag, equals, text = argument.partition("=")
        if hyphened(flag) != f"--{hyphened(dotted)}":
            rest.append(argument)
            continue
        values.append(text if equals else next(remaining, ""))
    return values, rest


def check_renamed(config: Any, flag: str, prefix: str = "--") -> None:
    """Refuse a flag of earlier releases: a class may have `renamed_flags`, names then and now, with hyphens."""
    now = getattr(type(config), "renamed_flags", {}).get(hyphened(flag).removeprefix(prefix))
    if now is not None and flag.startswith("--"):
        raise ValueError(f"{flag} is {prefix}{now} now: --help lists the settings")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if is_settings(value):
            check_renamed(value, flag, f"{prefix}{hyphened(field.name)}.")


def check_setting(config: Any, flag: str) -> None:
    """Refuse a flag that begins as those of a choice, but is no setting of it."""
    for dotted, mark, value in choices(config):
        prefix = f"--{hyphened(dotted)}."
        if not hyphened(flag).startswith(prefix):
            continue
        setting = hyphened(flag).removeprefix(prefix).partition(".")[0]
        known = sorted(hyphened(field.name) for field in dataclasses.fields(value))
        if setting not in known and setting.removeprefix("no-") not in known:
            raise ValueError(
                f"{flag}: {mark.name_of(value)} has no setting {setting!r}; it has {known}.{guess(setting, known)}"
            )


def hyphened(name: str) -> str:
    """A flag's name with hyphens."""
    return name.replace("_", "-")
