"""Settings whose class is chosen by name: flags, files, help."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
from toy_rules import RULES, Adam, Lookahead, Sgd

from g_pt.command_line.parsing import parse as parse_settings
from g_pt.files.choices import ChosenFrom, choices, with_choices
from g_pt.files.config import merge


@dataclass(frozen=True)
class Harvest:
    num_runs: int = 3
    rule: Annotated[Any, ChosenFrom(RULES)] = "sgd"
    """Rule of the runs."""


@dataclass(frozen=True)
class Program:
    rule: Annotated[Any, ChosenFrom(RULES)] = field(default_factory=Adam)
    """Rule that is looked at."""
    harvest: Harvest = field(default_factory=Harvest)


def parse(*arguments: str) -> Program:
    return parse_settings(Program, arguments, prog="program", description="")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as status:
        parse(*arguments)
    assert status.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_defaults_are_names_or_instances():
    assert parse() == Program(Adam(), Harvest(rule=Sgd()))
    assert with_choices(Program(rule="lookahead")).rule == Lookahead(Sgd())


@pytest.mark.parametrize("arguments", [["--rule", "sgd"], ["--rule=sgd"], ["--rule", "adam", "--rule", "sgd"]])
def test_a_flag_chooses(arguments):
    assert parse(*arguments).rule == Sgd()


def test_settings_of_what_was_chosen_are_flags_wherever_they_stand():
    chosen = ["--harvest.rule", "adam", "--rule", "sgd"]
    settings = ["--harvest.rule.learning-rate", "0.01", "--rule.weight_decay", "0.5", "--rule.nesterov"]
    expected = Program(Sgd(weight_decay=0.5, nesterov=True), Harvest(rule=Adam(0.01)))
    assert parse(*chosen, *settings) == parse(*settings, *chosen) == expected
    assert parse(*chosen, *settings, "--rule.no-nesterov").rule.nesterov is False


def test_a_choice_may_have_a_choice():
    arguments = ["--rule", "lookahead", "--rule.every", "7", "--rule.rule", "adam", "--rule.rule.learning-rate", "0.5"]
    assert parse(*arguments).rule == Lookahead(Adam(0.5), every=7)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("rule: adam", Adam()),
        ("rule: {name: adam, learning_rate: 0.01}", Adam(0.01)),
        ("rule: {name: adam, learning-rate: 1e-2}", Adam(0.01)),
        ("rule: {learning_rate: 0.5}", Sgd(0.5)),
        ("rule: {name: lookahead, rule: {name: adam, learning_rate: 2}}", Lookahead(Adam(2.0))),
    ],
)
def test_files_choose_by_name_by_settings_or_by_both(text, rule, tmp_path):
    (tmp_path / "my.yaml").write_text(f"harvest:\n  {text}\n")
    assert parse("--config", str(tmp_path / "my.yaml")).harvest.rule == rule


def test_flags_count_over_the_file_and_another_choice_starts_from_its_defaults(tmp_path):
    (tmp_path / "my.yaml").write_text("rule: {name: sgd, learning_rate: 5, weight_decay: 1}\n")
    config = ["--config", str(tmp_path / "my.yaml")]
    assert parse(*config, "--rule", "sgd", "--rule.learning-rate", "6").rule == Sgd(6.0, weight_decay=1.0)
    assert parse(*config, "--rule", "adam").rule == Adam()


def test_an_unknown_name_lists_what_exists(capsys):
    error = refused(capsys, "--harvest.rule", "adm")
    assert "there is no 'adm'; there are ['adam', 'lookahead', 'sgd']. Did you mean 'adam'?" in error
    assert "there is no ''" in refused(capsys, "--rule")
    with pytest.raises(ValueError, match=r"x\.yaml, section 'rule': there is no 'adm'; there are \['adam'"):
        merge(Program(), {"rule": "adm"}, "x.yaml")
    with pytest.raises(ValueError, match=r"must be one of \['adam', 'lookahead', 'sgd'\], or settings .*, got 3"):
        merge(Program(), {"rule": 3}, "x.yaml")


def test_an_unknown_setting_lists_what_the_choice_has(capsys):
    error = refused(capsys, "--rule", "sgd", "--rule.momentun", "3")
    assert (
        "--rule.momentun: sgd has no setting 'momentun'; it has ['learning-rate', 'nesterov', 'weight-decay']" in error
    )
    assert "adam has no setting 'nesterov'" in refused(capsys, "--rule.nesterov")
    with pytest.raises(ValueError, match=r"section 'rule', sgd: there is no setting 'momentum'; .*'learning_rate'"):
        merge(Program(), {"rule": {"name": "sgd", "momentum": 1}}, "x.yaml")


def test_help_lists_names_and_the_settings_of_what_was_chosen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as status:
        parse("--harvest.rule", "adam", "--rule", "sgd", "--help")
    assert status.value.code == 0
    out = capsys.readouterr().out
    for words in ("--rule {adam,sgd,lookahead}", "--rule.weight-decay FLOAT", "--harvest.rule {adam,sgd,lookahead}"):
        assert words in out
    assert "--harvest.rule.learning-rate FLOAT" in out
    assert "--harvest.rule.weight-decay" not in out
    assert "Rule of the runs." in out


def test_names_lead_back_to_classes():
    config = with_choices(Program(rule="lookahead"))
    found = {dotted: mark.name_of(value) for dotted, mark, value in choices(config)}
    assert found == {"rule": "lookahead", "rule.rule": "sgd", "harvest.rule": "sgd"}


def test_only_what_is_chosen_is_imported():
    program = (
        "import sys; from dataclasses import dataclass; from typing import Annotated, Any\n"
        "from g_pt.files.choices import ChosenFrom\nfrom g_pt.command_line.parsing import parse\n"
        "rules = {'adam': 'toy_rules:Adam', 'heavy': 'torch:Tensor'}\n"
        "P = type('P', (), {'__annotations__': {'rule': Annotated[Any, ChosenFrom(rules)]}, 'rule': 'adam'})\n"
        "try: parse(dataclass(P), ['--help'], prog='p', description='')\n"
        "finally: print('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=root,
        env={"PYTHONPATH": f"{root}:{root / 'tests' / 'helpers'}"},
    )  # fmt: skip
    assert "heavy" in done.stdout, done.stderr
    assert done.stdout.endswith("False\n")
