from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from g_pt.command_line.parsing import parse as parse_settings
from g_pt.command_line.parsing import preset_path
from g_pt.files.config import merge
from g_pt.files.yaml_files import read_yaml


@dataclass(frozen=True)
class Inner:
    learning_rate: float = 1e-3
    num_steps: int = 100
    max_runs: int | None = None
    max_norm: float | None = 1.0
    span: tuple[float, float] | None = None
    shape: tuple[int, int] = (1, 2)


@dataclass(frozen=True)
class Outer:
    task: str = "digits"
    resume: bool = False
    mode: Literal["global", "tensor"] = "global"
    output: Path = Path("runs")
    log: Path | None = None
    inner: Inner = field(default_factory=Inner)


def merged(**values):
    return merge(Outer(), values, "file.yaml")


def test_nothing_changes_nothing():
    assert merged() == Outer()


def test_nested_values_replace_only_what_they_name():
    config = merged(task="mnist", inner={"num_steps": 5})
    assert config == Outer(task="mnist", inner=Inner(num_steps=5))


def test_the_original_is_left_alone():
    default = Outer()
    merge(default, {"inner": {"num_steps": 5}}, "file.yaml")
    assert default == Outer()


@pytest.mark.parametrize(("value", "expected"), [("1e-4", 1e-4), (1, 1.0), (0.5, 0.5), ("-2E3", -2000.0)])
def test_yaml_numbers_become_floats_where_floats_are_meant(value, expected):
    rate = merged(inner={"learning_rate": value}).inner.learning_rate
    assert rate == expected
    assert type(rate) is float


def test_the_yaml_of_1e_minus_4_really_is_a_string(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("inner:\n  learning_rate: 1e-4\n")
    values = read_yaml(path)
    assert values == {"inner": {"learning_rate": "1e-4"}}
    assert merge(Outer(), values, str(path)).inner.learning_rate == 1e-4


def test_paths_become_paths():
    assert merged(output="elsewhere/x").output == Path("elsewhere/x")


def test_optional_settings_take_a_value_or_nothing():
    config = merged(inner={"max_runs": 7, "max_norm": None})
    assert config.inner.max_runs == 7
    assert config.inner.max_norm is None


def test_optional_numbers_and_paths_are_converted_like_others():
    assert merged(inner={"max_norm": "1e-4"}).inner.max_norm == 1e-4
    assert merged(log="elsewhere").log == Path("elsewhere")


@pytest.mark.parametrize("value", [[0.01, 1], ["1e-2", 1.0], (0.01, 1.0)])
def test_a_list_of_yaml_becomes_a_pair_whose_entries_are_converted(value):
    span = merged(inner={"span": value}).inner.span
    assert span == (0.01, 1.0)
    assert [type(span), *map(type, span)] == [tuple, float, float]


def test_a_pair_can_be_left_unset_and_need_not_be_optional():
    assert merged(inner={"span": None}).inner.span is None
    assert merged(inner={"shape": [3, 4]}).inner.shape == (3, 4)


@pytest.mark.parametrize("value", [[0.01], [0.01, 0.1, 1.0], 0.01, "0.01 1", {"low": 0.01, "high": 1}])
def test_what_is_no_pair_is_refused_with_what_came(value):
    with pytest.raises(ValueError, match=r"'span' must be of type tuple\[float, float\] \| None, got ") as error:
        merged(inner={"span": value})
    assert repr(value) in str(error.value)


def test_a_wrong_entry_of_a_pair_is_named():
    with pytest.raises(ValueError, match=r"section 'inner': 'span', entry 2 must be of type float, got 'fast'"):
        merged(inner={"span": [0.01, "fast"]})
    with pytest.raises(ValueError, match=r"'shape', entry 1 must be of type int, got 1\.5"):
        merged(inner={"shape": [1.5, 2]})


def test_pairs_are_two_values_of_one_flag():
    assert parse("--inner.span", "0.01", "0.3").inner.span == (0.01, 0.3)


def test_a_choice_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"'mode' must be of type Literal\['global', 'tensor'\], got 'unit'"):
        merged(mode="unit")


def test_a_bare_no_of_yaml_is_refused_with_what_to_write():
    with pytest.raises(ValueError, match="got False; put it in quotes: YAML reads no, off"):
        merged(mode=False)


def test_an_unknown_key_lists_the_settings_of_its_section_and_guesses_the_slip():
    with pytest.raises(ValueError, match=r"file\.yaml, section 'inner': there is no setting 'num_step'") as error:
        merged(inner={"num_step": 5})
    assert "['learning_rate', 'max_norm', 'max_runs', 'num_steps', 'shape', 'span']" in str(error.value)
    assert str(error.value).endswith("Did you mean 'num_steps'?")


@pytest.mark.parametrize("key", [1, True, None, "zzz"])
def test_keys_of_any_kind_are_refused_without_a_guess(key):
    with pytest.raises(ValueError, match="there is no setting") as error:
        merge(Outer(), {key: 1}, "file.yaml")
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("learning_rate", "fast", "float"),
        ("learning_rate", True, "float"),
        ("learning_rate", [1e-4], "float"),
        ("learning_rate", None, "float"),
        ("num_steps", 1.5, "int"),
        ("num_steps", "5", "int"),
        ("num_steps", True, "int"),
        ("num_steps", None, "int"),
        ("max_runs", "5", r"int \| None"),
    ],
)
def test_another_type_is_refused_by_name_with_what_came(key, value, wanted):
    with pytest.raises(ValueError, match=f"'{key}' must be of type {wanted}, got ") as error:
        merged(inner={key: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("resume", 1), ("resume", "yes"), ("task", 3), ("output", 3)])
def test_other_types_on_top_are_refused_too(key, value):
    with pytest.raises(ValueError, match=f"'{key}' must be of type"):
        merged(**{key: value})


def test_a_value_where_a_section_is_meant_is_refused():
    with pytest.raises(ValueError, match="'inner' is a section of settings, got 3"):
        merged(inner=3)


@pytest.mark.parametrize(
    ("text", "message"), [("- 1\n- 2\n", "'name: value', got list"), ("a: [1", "not valid YAML"), ("", "got NoneType")]
)
def test_a_file_that_is_no_settings_file_is_named(tmp_path, text, message):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_yaml(path)
    assert "file.yaml" in str(error.value)


def test_a_missing_file_and_a_missing_preset_are_named(tmp_path):
    (tmp_path / "small.yaml").touch()
    with pytest.raises(ValueError, match="no settings file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match=r"no preset 'big'; presets are \['small'\]"):
        preset_path("big", tmp_path)


def parse(*arguments, presets=Path()):
    return parse_settings(Outer, arguments, presets=presets, prog="program", description="")


def test_flags_win_over_the_file_over_the_preset_over_the_defaults(tmp_path):
    (tmp_path / "small.yaml").write_text("task: preset\nmode: tensor\ninner: {num_steps: 5}")
    (tmp_path / "mine.yaml").write_text("inner: {num_steps: 6, learning_rate: 1e-4}\nmode: tensor")
    flags = ["--preset", "small", "--config", str(tmp_path / "mine.yaml"), "--inner.learning-rate", "0.5"]
    expected = Outer(task="preset", mode="tensor", inner=Inner(num_steps=6, learning_rate=0.5))
    assert parse(*flags, presets=tmp_path) == expected


def test_keys_have_hyphens_or_underscores_but_not_both_at_once():
    assert merged(inner={"num-steps": 5}).inner.num_steps == 5
    with pytest.raises(ValueError, match="'num_steps' stands twice"):
        merged(inner={"num-steps": 5, "num_steps": 6})


def test_a_number_that_no_float_holds_is_refused():
    with pytest.raises(ValueError, match="must be of type float"):
        merged(inner={"learning_rate": 10**400})


def test_home_is_expanded_in_flags_files_and_their_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("log: ~/log\n")
    config = parse("--config", "~/mine.yaml", "--output", "~/x", "--task", "~/task.py:Mine")
    assert config == Outer(output=tmp_path / "x", log=tmp_path / "log", task=f"{tmp_path}/task.py:Mine")


def test_optional_flags_show_the_type_of_their_value_and_still_take_none(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    assert "--inner.max-norm FLOAT" in shown
    assert "--inner.span FLOAT FLOAT" in shown
    assert "--preset" not in shown, "there are none"
    assert "--config PATH" in shown
    with pytest.raises(SystemExit) as status:
        parse("--inner.max-norm", "fast")
    shown += capsys.readouterr().err
    assert status.value.code == 2
    assert "{None}" not in shown
    assert "NoneType" not in shown
    assert parse("--inner.max-norm", "None", "--inner.span", "None").inner == Inner(max_norm=None)


def test_help_lists_the_presets(tmp_path, capsys):
    (tmp_path / "small.yaml").touch()
    with pytest.raises(SystemExit):
        parse("--help", presets=tmp_path)
    assert "--preset {small}" in capsys.readouterr().out


def test_a_wrong_setting_is_one_line_and_status_2(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("taks: digits")
    with pytest.raises(SystemExit) as status:
        parse("--config", str(tmp_path / "mine.yaml"))
    assert status.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("program: ")
    assert error.count("\n") == 1
    assert "Did you mean 'task'?" in error
