"""Writes docs/reference.md from the code: commands with their flags, training settings, public classes.

    python docs/build_reference.py

A test compares the page with what this makes (tests/docs/test_reference_page.py).
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from g_pt.files.choices import marked_fields

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference.md"
HEAD = """# Reference

Made by `python docs/build_reference.py` from the code; change that, not this page. Words: [concepts](concepts.md).

## What all commands have

- `--help` with examples; a slip in a flag, a setting or a name gets a hint.
- `--config FILE.yaml`: settings by name (`num_runs: 500`, underscores or hyphens), over which flags count.
  A setting that is chosen by name takes `rule: adam` or `rule: {name: adam, learning_rate: 0.01}`.
  `train/train_g_pt.py` nests them by section; `gpt-import reference` has a `--config` of its own, the model's.
- `--json`: one JSON object on standard output, everything else on standard error (`gpt-evaluate --json FILE`
  writes a file).
- Exit codes: 0 done, 1 could not be done (one line on standard error says why), 2 wrong flags or settings,
  130 interrupted. The traceback of an unexpected error is kept in a file that the line names;
  `G_PT_TRACEBACK=1` shows it.
- `NO_COLOR=1` turns colours off; progress bars are drawn on a terminal only.
- Completion in the shell: put what `--tyro-print-completion bash` (or `zsh`, `fish`) prints where your shell looks
  for it; for bash
  `gpt-sample --tyro-print-completion bash > ~/.local/share/bash-completion/completions/gpt-sample`.
"""


def build() -> str:
    """The whole page."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    parts = [HEAD]
    for name, target in sorted(scripts.items()):
        parts += command_section(name, import_module(target.partition(":")[0]))
    parts += training_section()
    parts += ["## Python\n"]
    for package in ("g_pt", "checkpoints_dataset"):
        module = import_module(package)
        for name in module.__all__:
            parts.append(python_section(package, name, getattr(module, name)))
    parts.append(
        "### `checkpoints_dataset.trainer_callback.RecorderCallback`\n\n"
        "Records what `transformers.Trainer` trains; needs the extra `trainer`. See [extending](extending.md).\n"
    )
    return "\n".join(parts).rstrip() + "\n"


def command_section(name: str, module: Any) -> Iterator[str]:
    """A command: its own words, its flags, its subcommands."""
    yield f"## `{name}`\n"
    yield paragraphs(module.__doc__ or "")
    if hasattr(module, "Arguments"):
        yield flag_table(module.Arguments)
    for entry in get_args(getattr(module, "Command", None)):
        kind, *rest = get_args(entry)
        title = next((found.name for found in rest if getattr(found, "name", None)), kind.__name__)
        yield f"### `{name} {title}`\n"
        yield first_paragraph(kind) + "\n"
        yield flag_table(kind)


def training_section() -> Iterator[str]:
    """Flags of train/train_g_pt.py."""
    sys.path.insert(0, str(ROOT))
    from g_pt.commands.train import Program

    yield "## `train/train_g_pt.py`\n"
    yield "By `accelerate launch`, or by `python` on one device; `--preset NAME` takes one of `train/presets`.\n"
    yield flag_table(Program)


def paragraphs(text: str) -> str:
    """A docstring as Markdown: indented lines are a block of output."""
    lines, out, inside = inspect.cleandoc(text).splitlines(), [], False
    for line in lines:
        if line.startswith("    ") and not inside:
            out.append("```text")
            inside = True
        elif inside and not line.startswith("    "):
            out.append("```")
            inside = False
        out.append(line.removeprefix("    ") if inside else line)
    return "\n".join([*out, *(["```"] if inside else [])]).replace("Examples:\n", "Examples:\n\n") + "\n"


def flag_table(kind: type) -> str:
    """Flags with defaults and meaning."""
    rows = [f"| `{flag}` | {default} | {about} |" for flag, default, about in flags(kind, None, "")]
    return "\n".join(["| flag | default | |", "|---|---|---|", *rows]) + "\n"


def flags(kind: type, instance: Any, prefix: str) -> Iterator[tuple[str, str, str]]:
    """(flag, default, meaning) of a dataclass, sections included; defaults are those of the instance, if there is one.

    Of a field that is chosen by name, the settings of the default choice follow.
    """
    about, marks = field_docs(kind), marked_fields(kind)
    for field in dataclasses.fields(kind):
        default = default_of(field) if instance is None else getattr(instance, field.name)
        if field.name in marks:
            yield f"--{prefix}{dashed(field.name)}", shown(marks[field.name].name_of(default)), about[field.name]
        if dataclasses.is_dataclass(default):
            yield from flags(type(default), default, f"{prefix}{dashed(field.name)}.")
            continue
        positional = "Positional" in str(field.type)
        flag = field.name.upper() if positional else f"--{prefix}{dashed(field.name)}"
        yield flag, shown(default), about.get(field.name, "").replace("|", "\\|")


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Default value, or MISSING."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def shown(default: Any) -> str:
    """A default for a table."""
    if default is dataclasses.MISSING:
        return "required"
    if default is None or default == ():
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def dashed(name: str) -> str:
    """A flag's spelling of a field."""
    return name.replace("_", "-")


def field_docs(kind: type) -> dict[str, str]:
    """The string below each field of a dataclass and of its bases, on one line."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for node, below in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                assert isinstance(node.target, ast.Name)
                docs[node.target.id] = " ".join(str(below.value.value).split())
    return docs


def python_section(package: str, name: str, found: Any) -> str:
    """A public class or function: how it is called, what it is, its own methods."""
    lines = [f"### `{package}.{name}`\n", "```text", signature(name, found), "```\n", first_paragraph(found) + "\n"]
    if inspect.isclass(found):
        for method, value in vars(found).items():
            function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            if method.startswith("_") or not inspect.isfunction(function):
                continue
            lines.append(f"- `{signature(method, function)}`: {first_line(function)}")
    return "\n".join(lines).rstrip() + "\n"


def signature(name: str, function: Any) -> str:
    """`name(parameter, other=default)`, without types."""
    parameters = []
    star = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            star = True
        elif parameter.kind is parameter.KEYWORD_ONLY and not star:
            parameters.append("*")
            star = True
        bare = parameter.replace(annotation=parameter.empty)
        if "factory" in repr(parameter.default):
            bare = bare.replace(default=...)
        parameters.append(str(bare))
    return f"{name}({', '.join(parameters)})"


def first_paragraph(found: Any) -> str:
    """Beginning of a docstring."""
    return " ".join((inspect.getdoc(found) or "").partition("\n\n")[0].split())


def first_line(found: Any) -> str:
    """First line of a docstring."""
    return (inspect.getdoc(found) or "").partition("\n")[0]


if __name__ == "__main__":
    PAGE.write_text(build())
