"""Pages of the documentation as blocks, and what trying one of their commands means."""

import argparse
import re
import shlex
import sys
import tomllib
from dataclasses import dataclass
from importlib import import_module, util
from pathlib import Path
from types import ModuleType

import pytest
import tyro

from g_pt.commands import harvest, train

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# folders whose programs are documented as modules, `python -m benchmarks.all`
MODULES = ("benchmarks", "g_pt", "checkpoints_dataset", "rl_tasks")
# languages of blocks that are run or parsed, of files, and of what is output
TRIED, FILES_OF, OUTPUT = {"python", "bash"}, {"python", "yaml"}, {"text", "console", "json", "csv"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the page's line it begins at, and its name where it is a file."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """Name of the file that the block is, by its first line `# name.py`."""
        found = re.match(r"# ([\w/-]+\.(?:py|yaml))\n", self.text)
        return found[1] if found and self.language in FILES_OF else None


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text()
    found = re.finditer(r"^```(\S*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(m[1], m[2], text[: m.start()].count("\n") + 1) for m in found]


def files_of_pages() -> dict[str, str]:
    """Every file that a page shows."""
    return {block.file: block.text for page in PAGES for block in blocks_of(page) if block.file}


def commands_of(text: str) -> list[list[str]]:
    """Commands of a bash block, as words: continued lines joined, `&&` split, comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [command for command in words if command]


class ParsedError(BaseException):
    """The flags were understood; the command would begin now."""


def assert_command_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse a command that does not exist, or whose flags it does not know.

    Nothing is run: harvests and trainings take minutes, installations want the network.
    """
    match without_environment(words):
        case ["accelerate", "launch", *rest]:
            return assert_command_parses(launched("accelerate", rest), monkeypatch)
        case ["torchrun", *rest]:
            return assert_command_parses(launched("torchrun", rest), monkeypatch)
        case ["pip", "install", *packages]:
            extras = {extra for word in packages for extra in re.findall(r"\[([\w,-]+)\]", word)}
            assert {e for group in extras for e in group.split(",")} <= set(PROJECT["optional-dependencies"]), words
        case ["pytest" | ".ci/run", *_] | ["hf", "auth", "login"]:
            return None
        case ["python", "-m", name, *arguments]:
            assert name.partition(".")[0] in MODULES, name
            assert_main_parses(import_module(name), arguments, monkeypatch)
        case ["python", program, *arguments] if program in files_of_pages():
            assert not arguments
        case ["python", program, *arguments]:
            assert (ROOT / program).is_file(), program
            assert_main_parses(program_module(ROOT / program), arguments, monkeypatch)
        case [name, *arguments] if name in PROJECT["scripts"]:
            module = import_module(PROJECT["scripts"][name].partition(":")[0])
            assert_main_parses(module, arguments, monkeypatch)
        case _:
            raise AssertionError(f"nobody knows whether this command is right: {words}")
    return None


def without_environment(words: list[str]) -> list[str]:
    """A command without the `NAME=value` before it."""
    start = next((i for i, word in enumerate(words) if not re.match(r"[A-Z_][A-Z0-9_]*=", word)), len(words))
    return words[start:]


def launched(launcher: str, words: list[str]) -> list[str]:
    """What a launcher would start, as a command of `python`; refuses flags that the launcher does not know."""
    if launcher == "torchrun":
        from torch.distributed.run import get_args_parser as launcher_parser
    else:
        from accelerate.commands.launch import launch_command_parser as launcher_parser
    parsed = launcher_parser().parse_args(words)
    return ["python", *(["-m"] if parsed.module else []), parsed.training_script, *parsed.training_script_args]


def program_module(path: Path) -> ModuleType:
    """A program of the repository as a module."""
    spec = util.spec_from_file_location(f"documented_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def assert_main_parses(module: ModuleType, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call a program's main and stop it as soon as its flags are parsed."""
    parse_with_tyro, parse_with_argparse = tyro.cli, argparse.ArgumentParser.parse_args

    def stopping(parse):
        def call(*args, **options):
            parse(*args, **options)
            raise ParsedError

        return call

    with monkeypatch.context() as patch:
        patch.setattr(tyro, "cli", stopping(parse_with_tyro))
        patch.setattr(argparse.ArgumentParser, "parse_args", stopping(parse_with_argparse))
        patch.setattr(sys, "argv", [module.__name__, *arguments])
        for command in (harvest, train):  # a task that a page names need not be on that page
            patch.setattr(command, "task_defaults", lambda _: {})
        with pytest.raises(ParsedError):
            module.main()
