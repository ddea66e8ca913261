"""How every command reads its flags: `--config FILE.yaml` first, flags over it, hints for slips from tyro.

A YAML key is a flag's name with underscores; `prompt_loss: 0.1`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from g_pt.files.config import merge, read_yaml

Arguments = TypeVar("Arguments")

EPILOG = """
Settings may come from a file: --config FILE.yaml (name: value, with underscores); flags count over it.
Exit codes: 0 done, 1 could not be done (one line says why), 2 wrong flags or settings, 130 interrupted.
Completion of flags in your shell: --tyro-print-completion {bash,zsh,fish}. NO_COLOR=1 turns colours off.
"""


def parse(kind: type[Arguments], arguments: Sequence[str] | None, *, prog: str, description: str | None) -> Arguments:
    """Arguments of a command: defaults, then `--config FILE.yaml`, then flags.

    Exits with status 2 and one line where a setting of the file is wrong, and as tyro does where a flag is.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    path, rest = config_file(arguments, prog)
    default: Any = None
    if path is not None:
        try:
            default = from_file(kind, read_yaml(path), str(path))
        except (ValueError, OSError) as error:
            print(f"{prog}: {error}", file=sys.stderr)
            raise SystemExit(2) from error
    return parse_flags(kind, rest, prog=prog, description=description, default=default)


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
    if kind is not None and any(argument.partition("=")[0] == "--config" for argument in arguments):
        return parse(kind, arguments[1:], prog=f"{prog} {arguments[0]}", description=kind.__doc__)
    return parse_flags(command, arguments, prog=prog, description=description)


def parse_flags(kind: Any, arguments: Sequence[str], *, prog: str, description: str | None, default: Any = None) -> Any:
    """What tyro makes of the flags; NO_COLOR is obeyed, which it knows as TERM=dumb only."""
    options = {} if default is None else {"default": default}
    terminal = os.environ.get("TERM")
    if os.environ.get("NO_COLOR"):
        os.environ["TERM"] = "dumb"
    try:
        return tyro.cli(kind, args=arguments, prog=prog, description=with_habits(description), **options)
    finally:
        if terminal is not None:
            os.environ["TERM"] = terminal
        elif os.environ.get("NO_COLOR"):
            del os.environ["TERM"]


def with_habits(description: str | None) -> str:
    """A command's own words, and what is the same for all."""
    return f"{(description or '').strip()}\n{EPILOG.rstrip()}"


def config_file(arguments: Sequence[str], prog: str) -> tuple[Path | None, list[str]]:
    """Take `--config FILE` out of the flags."""
    files = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    files.add_argument("--config", type=Path)
    chosen, rest = files.parse_known_args(arguments)
    return chosen.config, rest


def from_file(kind: type[Arguments], values: Mapping[str, Any], where: str) -> Arguments:
    """The settings of a file over the defaults; what has neither is still wanted of the flags."""
    wanted = {
        field.name: tyro.MISSING
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    return merge(kind(**wanted), values, where)
