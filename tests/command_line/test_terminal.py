import tempfile
import warnings

import numpy as np
import pytest
import torch

from g_pt.command_line.terminal import UsageError, exit_on_error, show_warnings


@pytest.mark.parametrize("error", [ValueError("a wrong value"), FileNotFoundError("no file x")])
def test_an_error_that_a_user_can_mend_is_one_line_and_status_1(error, capsys):
    with pytest.raises(SystemExit) as caught, exit_on_error("gpt-test"):
        raise error
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"gpt-test: {error}\n"


def test_an_interrupt_is_status_130(capsys):
    with pytest.raises(SystemExit) as caught, exit_on_error("gpt-test"):
        raise KeyboardInterrupt
    assert caught.value.code == 130
    assert capsys.readouterr().err == "gpt-test: interrupted\n"


def test_an_unexpected_error_is_one_line_that_names_the_file_of_its_traceback(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as caught, exit_on_error("gpt-test"):
        _ = 1 / 0
    assert caught.value.code == 1
    [file] = tmp_path.iterdir()
    said = f"gpt-test: unexpected ZeroDivisionError: division by zero; the traceback is in {file}\n"
    assert capsys.readouterr().err == said
    assert "_ = 1 / 0" in file.read_text()
    assert "ZeroDivisionError" in file.read_text()


def test_without_a_place_for_the_traceback_the_line_says_how_to_see_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(SystemExit), exit_on_error("gpt-test"):
        _ = {}["a"]
    assert capsys.readouterr().err.endswith("G_PT_TRACEBACK=1 shows the traceback\n")


@pytest.mark.parametrize("make", [lambda: torch.empty(2**50), lambda: np.empty(2**50)])
def test_too_little_memory_is_no_unexpected_error(capsys, make):
    with pytest.raises(SystemExit), exit_on_error("gpt-test"):
        make()
    assert capsys.readouterr().err.startswith("gpt-test: there is not enough memory for it, ask for less: ")


def test_debugging_keeps_every_traceback(monkeypatch):
    monkeypatch.setenv("G_PT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="a wrong value"), exit_on_error("gpt-test"):
        raise ValueError("a wrong value")


def test_warnings_are_one_line_each(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back afterwards
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show_warnings("gpt-test")
        warnings.warn("be careful", stacklevel=1)
    assert capsys.readouterr().err == "gpt-test: warning: be careful\n"


def test_control_characters_of_files_are_escaped_and_long_lists_are_cut(capsys):
    with pytest.raises(SystemExit), exit_on_error("gpt-test"):
        raise ValueError(f"\x1b[31mred\nand\u202e\x07 {list(range(100_000))} name another")
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("gpt-test: \\x1b[31mred and\\u202e\\x07 [0, 1, 2")
    assert " ... " in error
    assert error.endswith("99999] name another\n"), "the end says what to do"
    assert len(error) < 2000


def test_a_wrong_call_is_status_2(capsys):
    with pytest.raises(SystemExit) as caught, exit_on_error("gpt-test"):
        raise UsageError("give a prompt")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "gpt-test: give a prompt\n"


def test_a_folder_that_was_removed_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as caught, exit_on_error("gpt-test"):
        raise AssertionError("not reached")
    assert caught.value.code == 1
    assert "the current folder does not exist any more" in capsys.readouterr().err
