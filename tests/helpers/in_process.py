"""A command's main called in this process, where neither signals nor imports are tested: a new process is slow."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess

import pytest


def run_in_process(
    main: Callable[[list[str]], None], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> CompletedProcess[str]:
    """Exit status, standard output and standard error, as `subprocess.run` gives them."""
    status, message = 0, ""
    capsys.readouterr()
    try:
        main(arguments)
    except SystemExit as error:
        if isinstance(error.code, str):  # what the interpreter would print
            status, message = 1, error.code
        else:
            status = error.code or 0
    out, err = capsys.readouterr()
    return CompletedProcess(arguments, status, out, err + message)
