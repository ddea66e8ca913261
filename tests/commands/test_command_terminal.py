import warnings

import pytest

from g_pt.command_line.terminal import exit_on_user_error, show_warnings


@pytest.mark.parametrize("error", [ValueError("a wrong value"), FileNotFoundError("no file x")])
def test_an_error_that_a_user_can_mend_is_one_line_and_status_1(error, capsys):
    with pytest.raises(SystemExit) as caught, exit_on_user_error("gpt-test"):
        raise error
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"gpt-test: {error}\n"


def test_an_interrupt_is_status_130(capsys):
    with pytest.raises(SystemExit) as caught, exit_on_user_error("gpt-test"):
        raise KeyboardInterrupt
    assert caught.value.code == 130
    assert capsys.readouterr().err == "gpt-test: interrupted\n"


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), exit_on_user_error("gpt-test"):
        _ = 1 / 0


def test_debugging_keeps_every_traceback(monkeypatch):
    monkeypatch.setenv("G_PT_DEBUG", "1")
    with pytest.raises(ValueError, match="a wrong value"), exit_on_user_error("gpt-test"):
        raise ValueError("a wrong value")


def test_warnings_are_one_line_each(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back afterwards
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show_warnings("gpt-test")
        warnings.warn("be careful", stacklevel=1)
    assert capsys.readouterr().err == "gpt-test: warning: be careful\n"
