"""How every command reads its settings: defaults, `--preset NAME`, `--config FILE.yaml`, flags, each over the last.

A YAML key is a flag's name with underscores or hyphens; `prompt_loss: 0.1`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import tyro

from g_pt.command_line.flags import choice_flags, choose_by_flags, flag_rules, settings_flags
from g_pt.command_line.terminal import say
from g_pt.files.choices import is_settings, with_choices
from g_pt.files.config import merge
from g_pt.files.yaml_files import read_yaml

Arguments = TypeVar("Arguments")

EPILOG = """
Settings may come from a file: --config FILE.yaml (name: value); flags count over it. --version says which g-pt this is.
Exit codes: 0 done, 1 could not be done (one line says why), 2 wrong flags or settings, 130 interrupted.
Completion of flags in your shell: --tyro-print-completion {bash,zsh,fish}. NO_COLOR=1 turns colours off.
"""


def parse(
    kind: type[Arguments],
    arguments: Sequence[str] | None,
    *,
    prog: str,
    description: str | None,
    presets: Path | None = None,
    task_defaults: Callable[[str], Mapping[str, Any]] | None = None,
) -> Arguments:
    """Settings of a command; `~` at the start of a path or name is the home folder.

    Exits with status 2 and one line where a setting of a file is wrong, and as tyro does where a flag is.

    Args:
        kind: a dataclass, whose fields are the flags; fields may be dataclasses, or chosen by name (`ChosenFrom`).
        arguments: those of the process where None.
        presets: folder of the files that `--preset` names.
        task_defaults: settings that come with a task, by the name that the flags or the files give; they stand below
            both.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    print_version(arguments, prog)
    with wrong_settings(prog):
        chosen, rest = settings_files(arguments, prog, presets)
        files = {str(path): read_yaml(path) for path in chosen}
    default = with_choices(with_missing(kind))
    task = named_task(files.values(), rest)
    if task_defaults is not None and task is not None:
        default = merge(default, task_defaults(task), f"harvest_defaults of task {task!r}")
    with wrong_settings(prog):
        for name, settings in files.items():
            default = merge(default, settings, name)
        default, rest = choose_by_flags(default, rest)
        extra = {kind: settings_flags(preset_names(presets)), **choice_flags(default)}
        return checked(parse_flags(kind, rest, prog=prog, description=description, default=default, extra=extra))


def parse_subcommand(
    command: Any,
    configurable: Mapping[str, type],
    arguments: Sequence[str] | None,
    *,
    prog: str,
    description: str | None,
) -> Any:
    """Arguments of the subcommand that is named first; `configurable` are those that take `--config FILE.yaml`.

    Args:
        command: the union of all subcommands.
        configurable: their classes by name.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    kind = configurable.get(arguments[0]) if arguments else None
    if kind is not None:
        return parse(kind, arguments[1:], prog=f"{prog} {arguments[0]}", description=kind.__doc__)
    print_version(arguments, prog)
    with wrong_settings(prog):
        return checked(parse_flags(command, arguments, prog=prog, description=description))


def parse_flags(
    kind: Any,
    arguments: Sequence[str],
    *,
    prog: str,
    description: str | None,
    default: Any = None,
    extra: Mapping[type, Any] | None = None,
) -> Any:
    """Parse flags with tyro; NO_COLOR is obeyed, which it knows as TERM=dumb only."""
    options = {} if default is None else {"default": default}
    terminal = os.environ.get("TERM")
    if os.environ.get("NO_COLOR"):
        os.environ["TERM"] = "dumb"
    try:
        with flag_rules(extra or {}):
            return tyro.cli(kind, args=arguments, prog=prog, description=with_habits(description), **options)
    finally:
        if terminal is not None:
            os.environ["TERM"] = terminal
        elif os.environ.get("NO_COLOR"):
            del os.environ["TERM"]


@contextmanager
def wrong_settings(prog: str) -> Iterator[None]:
    """Say in one line what is wrong with the settings, and exit with status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        say(prog, error)
        raise SystemExit(2) from error


def print_version(arguments: Sequence[str], prog: str) -> None:
    """Print the version and end the program where `--version` is among the flags."""
    if "--version" in arguments:
        print(f"{prog} (g-pt) {sys.modules['g_pt'].__version__}")
        raise SystemExit(0)


def named_settings(arguments: Sequence[str] | None) -> set[str]:
    """First parts of the settings that the user has named, in flags or in a `--config` file, not by a preset.

    Args:
        arguments: those of the process where None, of which `parse` has made settings.
    """
    files, rest = settings_files(sys.argv[1:] if arguments is None else arguments, "", None)
    names = [argument.removeprefix("--").partition("=")[0] for argument in rest if argument.startswith("--")]
    names += [str(name) for path in files for name in read_yaml(path)]
    return {name.partition(".")[0].replace("-", "_") for name in names}


def with_habits(description: str | None) -> str:
    """A command's own words, and what is the same for all."""
    return f"{(description or '').strip()}\n{EPILOG.rstrip()}"


def settings_files(arguments: Sequence[str], prog: str, presets: Path | None) -> tuple[list[Path], list[str]]:
    """Take `--preset NAME` and `--config FILE` out of the flags; returns the files, and the other flags."""
    files = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    files.add_argument("--config", type=lambda text: Path(os.path.expanduser(text)))
    if presets is not None:
        files.add_argument("--preset")
    chosen, rest = files.parse_known_args(arguments)
    preset = None if presets is None or chosen.preset is None else preset_path(chosen.preset, presets)
    return [path for path in (preset, chosen.config) if path is not None], rest


def named_task(files: Iterable[Mapping[Any, Any]], flags: Sequence[str]) -> str | None:
    """The task that flags name, or else the last of the files; none where help is wanted, which needs no task."""
    if {"-h", "--help"} & set(flags):
        return None
    wanted = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    wanted.add_argument("--task", nargs="?")
    named = [wanted.parse_known_args(flags)[0].task, *(settings.get("task") for settings in reversed([*files]))]
    return next((name for name in named if isinstance(name, str)), None)


def preset_names(presets: Path | None) -> list[str]:
    """Names that `--preset` takes."""
    return [] if presets is None else sorted(path.stem for path in presets.glob("*.yaml"))


def preset_path(name: str, folder: Path) -> Path:
    """File of a preset; the error lists what exists."""
    if name not in preset_names(folder):
        raise ValueError(f"there is no preset {name!r}; presets are {preset_names(folder)}")
    return folder / f"{name}.yaml"


def with_missing(kind: type[Arguments]) -> Arguments:
    """Default settings; what has no default is still wanted of a file or the flags."""
    wanted = {
        field.name: tyro.MISSING
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    return kind(**wanted)


def checked(config: Any) -> Any:
    """Settings with `~` at the start of a path or name expanded, which shells leave where it is quoted.

    Raises:
        ValueError: a `seed` is not one of 63 bits; others would give the networks of another seed.
    """
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "seed" and not 0 <= value < 2**63:
            raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1, got {value}")
        if isinstance(value, str | Path) and str(value).startswith("~"):
            changes[field.name] = type(value)(os.path.expanduser(value))
        elif is_settings(value):
            changes[field.name] = checked(value)
    return dataclasses.replace(config, **changes) if changes else config
