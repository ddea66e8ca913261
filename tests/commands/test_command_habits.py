"""What every command does alike: one table over all entry points that are installed."""

import json
import os
import pty
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from in_process import run_in_process

from g_pt.commands import demo

ROOT = Path(__file__).parents[2]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


@dataclass(frozen=True)
class Habits:
    """How one command is tried.

    Attributes:
        slip: a misspelled flag or subcommand, and what the hint names.
        fails: arguments for what is not there; NAME is replaced, and must be named in the error.
        settings: a settings file that asks for the same; NAME is replaced.
        beside: arguments that such a file goes with.
        over: flags that count over the file; NAME is replaced.
        key: a misspelled key of the settings, and what the hint names.
    """

    slip: tuple[list[str], str]
    fails: list[str]
    settings: str
    over: list[str]
    key: tuple[str, str]
    beside: tuple[str, ...] = ()


TABLE = {
    "gpt-harvest": Habits(
        slip=(["--num-run", "3"], "--num-runs"),
        fails=["--task", "NAME"],
        settings="task: NAME\nrule: {name: adam, learning_rate_range: [1e-3, 0.1]}\n",
        over=["--task", "NAME"],
        key=("num_rnus: 3", "num_runs"),
    ),
    "gpt-train": Habits(
        slip=(["--optimizer.num-step", "3"], "--optimizer.num-steps"),
        fails=["--task", "NAME"],
        settings="task: NAME\noptimizer: {num-steps: 3}\n",
        over=["--task", "NAME"],
        key=("optimiser: {num_steps: 3}", "optimizer"),
    ),
    "gpt-sample": Habits(
        slip=(["--prompt-loss", "0.1", "--num-sample", "3"], "--num-samples"),
        fails=["--prompt-loss", "0.1", "--model", "NAME"],
        settings="model: NAME\nprompt_loss: 0.1\n",
        over=["--model", "NAME"],
        key=("promt_loss: 0.1", "prompt_loss"),
    ),
    "gpt-evaluate": Habits(
        slip=(["--network", "3"], "--networks"),
        fails=["--model", "NAME"],
        settings="model: NAME\n",
        over=["--model", "NAME"],
        key=("netwroks: 3", "networks"),
    ),
    "gpt-import": Habits(
        slip=(["foldr"], "folder"),
        fails=["recorded", "NAME"],
        settings="csv: NAME\ntask: moons\nout: made\n",
        over=["--csv", "NAME"],
        key=("tsak: moons", "task"),
        beside=("folder", "."),
    ),
    "gpt-push": Habits(
        slip=(["digits-loss", "org/name", "--card-onyl", "card.md"], "--card-only"),
        fails=["NAME", "org/name"],
        settings="model: NAME\nrepo: org/name\n",
        over=["NAME"],
        key=("licence: mit", "license"),
    ),
    "gpt-dataset": Habits(
        slip=(["exprt"], "export"),
        fails=["export", "NAME", "--out", "parquet"],
        settings="store: NAME\nout: parquet\n",
        over=["NAME"],
        key=("otu: parquet", "out"),
        beside=("export",),
    ),
    "gpt-demo": Habits(
        slip=(["--prot", "7861"], "--port"),
        fails=["--model", "NAME"],
        settings="model: NAME\n",
        over=["--model", "NAME"],
        key=("prot: 7861", "port"),
    ),
}
COMMANDS = pytest.mark.parametrize("name", sorted(SCRIPTS))


def main_of(name: str) -> Callable[[list[str]], None]:
    module, _, function = SCRIPTS[name].partition(":")
    return getattr(import_module(module), function)


def ended(name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    done = run_in_process(main_of(name), arguments, capsys)
    return done.returncode, done.stdout, done.stderr


def named(arguments: list[str], value: str) -> list[str]:
    return [value if argument == "NAME" else argument for argument in arguments]


def test_every_command_has_its_line_in_the_table() -> None:
    assert set(TABLE) == set(SCRIPTS)


@COMMANDS
def test_help_has_examples_and_says_what_all_commands_have(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = ended(name, ["--help"], capsys)
    assert status == 0
    examples = re.findall(rf"^\W*{name} [\w-].*$", out.partition("Examples:")[2], re.MULTILINE)
    assert len(examples) >= 1 + (name != "gpt-evaluate"), "Examples that can be copied"
    for word in ("--config FILE.yaml", "Exit codes: 0 done, 1", "--tyro-print-completion", "NO_COLOR"):
        assert word in out


@COMMANDS
def test_examples_of_the_help_can_be_parsed(name):
    module = import_module(SCRIPTS[name].partition(":")[0])
    examples = re.findall(rf"^    {name} ?(.*)$", module.__doc__, re.MULTILINE)
    assert examples
    for example in examples:
        assert_parses(name, example.split())


def assert_parses(name: str, arguments: list[str]) -> None:
    """The flags exist and have values of the right kind: `--help` behind them would not be reached otherwise."""
    import tyro

    from g_pt.command_line.parsing import parse

    module = import_module(SCRIPTS[name].partition(":")[0])
    if hasattr(module, "parse_command"):
        module.parse_command(arguments)
    elif name == "gpt-sample":
        tyro.cli(module.Arguments, args=module.other_prompts(arguments)[1])
    else:
        parse(module.Arguments, arguments, prog=name, description=None)


@COMMANDS
def test_a_slip_gets_a_hint_and_status_2(name, capsys):
    arguments, hint = TABLE[name].slip
    status, _, err = ended(name, arguments, capsys)
    assert status == 2
    assert hint in err


@COMMANDS
def test_what_is_not_there_is_one_line_and_status_1(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = ended(name, named(TABLE[name].fails, "nowhere"), capsys)
    assert status == 1
    assert out == ""
    assert err.startswith(f"{name}: ")
    assert "nowhere" in err
    assert err.count("\n") == 1


@COMMANDS
def test_settings_come_from_a_file_and_flags_count_over_it(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    habits = TABLE[name]
    Path("my.yaml").write_text(habits.settings.replace("NAME", "from-file"))
    arguments = [*habits.beside, "--config", "my.yaml"]
    status, _, err = ended(name, arguments, capsys)
    assert (status, "from-file" in err) == (1, True), err
    status, _, err = ended(name, [*arguments, *named(habits.over, "from-flag")], capsys)
    assert (status, "from-flag" in err, "from-file" in err) == (1, True, False), err


@COMMANDS
def test_a_wrong_settings_file_is_one_line_and_status_2(name, capsys, tmp_path, monkeypatch, subtests):
    for settings in ["missing", "slip", "damaged"]:
        with subtests.test(settings):
            monkeypatch.chdir(tmp_path)
            slip, hint = TABLE[name].key
            text, said = {
                "slip": (slip, f"Did you mean '{hint}'?"),
                "damaged": ("a: [", "not valid YAML"),
                "missing": (None, ""),
            }[settings]
            if text is not None:
                Path("my.yaml").write_text(text)
            status, out, err = ended(name, [*TABLE[name].beside, "--config", "my.yaml"], capsys)
            assert (status, out) == (2, "")
            assert err.startswith(name)
            assert "my.yaml" in err
            assert said in err


@COMMANDS
def test_completion_is_printed_for_every_shell(name, capsys, subtests):
    for shell in ["bash", "zsh", "fish"]:
        with subtests.test(shell):
            status, out, _ = ended(name, ["--tyro-print-completion", shell], capsys)
            assert status == 0
            assert name in out or name.replace("-", "_") in out
            assert "json" in out
            if shell == "bash":
                assert subprocess.run(["bash", "-n"], input=out, text=True, check=False).returncode == 0


def on_a_terminal(arguments: list[str], **environment: str) -> str:
    """What a program prints where standard output and standard error are a terminal."""
    ours, theirs = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    own = kept | {"TERM": "xterm-256color", "COLUMNS": "120", "PYTHONPATH": str(ROOT)} | environment
    with subprocess.Popen([sys.executable, "-m", *arguments], stdout=theirs, stderr=theirs, env=own) as process:
        os.close(theirs)
        parts = []
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            parts.append(part)
        process.wait(timeout=250)
    os.close(ours)
    return b"".join(parts).decode()


COLOUR = re.compile(r"\x1b\[[\d;]*(?:3[0-7]|9[0-7]|38)[\d;]*m")


@COMMANDS
def test_no_color_is_obeyed(name):
    module = SCRIPTS[name].partition(":")[0]
    assert COLOUR.search(on_a_terminal([module, "--help"], FORCE_COLOR="1")), "else this test sees nothing"
    assert not COLOUR.search(on_a_terminal([module, "--help"], NO_COLOR="1"))


class ServedPage:
    """Stands for gradio's page, which would be served until Ctrl-C; tests/commands/test_demo.py opens the real one."""

    def block_thread(self) -> None:
        sys.stdout.write("closing server\n")  # as gradio does


@pytest.mark.slow
def test_in_a_pipe_there_are_no_bars_and_json_is_one_object(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    harvest = ["--task", "moons", "--num-runs", "3", "--num-steps", "3", "--num-checkpoints", "2", "--out", "made"]
    settings = (
        "{task: moons, dataset: trained/data, output: trained, "
        "harvest: {num_runs: 20, num_steps: 3, num_checkpoints: 2}, model: {width: 16, num_layers: 1, num_heads: 2}, "
        "pairs: {batch_size: 4}, optimizer: {num_steps: 2}, progress: {evaluate_every: 0}}"
    )
    Path("tiny.yaml").write_text(settings)
    training = ["--config", "tiny.yaml"]
    runs = {
        "gpt-harvest": [*harvest, "--json"],
        "gpt-train": [*training, "--json"],
        "gpt-sample": ["--prompt-loss", "0.3", "--json"],
        "gpt-import": ["export-lmdb", "made", "--out", "lmdb", "--json"],
        "gpt-evaluate": [
            "--quick",
            "--sections",
            "prompting",
            "--networks",
            "2",
            "--prompts",
            "2",
            "--json",
            "report.json",
        ],
        "gpt-dataset": ["export", "made", "--out", "parquet", "--json"],
        "gpt-push": ["digits-loss", "org/name", "--card-only", "card.md", "--json"],
        "gpt-demo": ["--json"],
    }
    monkeypatch.setattr(demo, "open_page", lambda *_: (ServedPage(), "http://127.0.0.1:7860/"))
    assert set(runs) == set(SCRIPTS)
    pytest.importorskip("lmdb")
    AcceleratorState._reset_state(reset_partial_state=True)  # other tests of this process trained in other precisions
    for name, arguments in runs.items():
        status, out, err = ended(name, arguments, capsys)
        assert status == 0, err
        assert "\r" not in out + err, f"{name} draws a bar"
        assert "\x1b[" not in out + err
        found = Path("report.json").read_text() if name == "gpt-evaluate" else out
        assert isinstance(json.loads(found), dict)
