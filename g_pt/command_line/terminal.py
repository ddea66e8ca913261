"""Habits of all commands at the terminal: errors in one sentence, warnings in one line, no bars in pipes."""

from __future__ import annotations

import os
import re
import select
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

from g_pt.files.schema import one_line

OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)  # of torch, which has no class for it
LONGEST = 1600  # characters of an error


def show_warnings(command: str) -> None:
    """Print warnings as `command: warning: what`, without their line of code; in the first process only."""
    if not is_first_process():
        warnings.simplefilter("ignore")
    warnings.showwarning = lambda message, *_, **__: print(f"{command}: warning: {message}", file=sys.stderr)


def hide_bars_in_pipes() -> None:
    """Turn the loading bars of diffusers off where nobody watches."""
    from diffusers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


class UsageError(ValueError):
    """A command was called wrongly: exit status 2."""


@contextmanager
def exit_on_error(command: str) -> Iterator[None]:
    """Print `command: what was wrong` in one line and exit; G_PT_TRACEBACK=1 shows the traceback.

    ValueError and OSError are the user's to mend: status 1, and 2 for a UsageError. Of any other error the traceback is
    kept in a file, which the line names: status 1. A reader that has closed the pipe, such as `head`, ends the command
    without a word.
    """
    try:
        try:
            check_current_folder()
            yield
        finally:
            sys.stdout.flush()  # meets a closed pipe here, not after the last handler
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError as error:
        if not is_closed(sys.stdout):
            end_with(command, error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left has nowhere to go
        raise SystemExit(141) from None  # as a shell says SIGPIPE
    except Exception as error:
        end_with(command, error)


def end_with(command: str, error: Exception) -> None:
    """Say what was wrong and exit, or raise it where the traceback is wanted."""
    if os.environ.get("G_PT_TRACEBACK") == "1":
        raise error
    let_the_first_process_speak()
    say(command, error if isinstance(error, ValueError | OSError) else unexpected(command, error))
    raise SystemExit(2 if isinstance(error, UsageError) else 1) from error


def unexpected(command: str, error: Exception) -> str:
    """One line about an error that nobody foresaw, and where its traceback was written."""
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        return f"there is not enough memory for it, ask for less: {one_line(str(error))}"
    what = f"unexpected {type(error).__name__}: {one_line(str(error))}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix=f"{command}-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return f"{what}; G_PT_TRACEBACK=1 shows the traceback"
    return f"{what}; the traceback is in {file.name}"


def say(command: str, error: object) -> None:
    """Print `command: error` in one line on standard error: control characters escaped, the middle of long text cut."""
    print(f"{command}: {one_line(' '.join(str(error).split()), LONGEST)}", file=sys.stderr)


def check_current_folder() -> None:
    """Refuse to work in a folder that was removed: no path could be found from it."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ValueError("the current folder does not exist any more: change into one that does") from None


def is_closed(stream: TextIO) -> bool:
    """Whether nobody reads any more what is written; that a write has failed is remembered by the pipe alone."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return bool(poll.poll(0))


def is_first_process() -> bool:
    """Whether this is the first of the processes that a launcher has started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def let_the_first_process_speak(seconds: float = 10.0) -> None:
    """Wait in other processes than the first: where all have met the same error, the launcher ends them meanwhile."""
    if not is_first_process():
        time.sleep(seconds)


@contextmanager
def quiet_unless_first() -> Iterator[None]:
    """Say what is the same in all processes, such as a mistyped flag, only in the first."""
    if is_first_process():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
        yield
