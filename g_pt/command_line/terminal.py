"""What all commands do at the terminal: errors in one sentence, warnings in one line, no bars in pipes."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


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


@contextmanager
def exit_on_user_error(command: str) -> Iterator[None]:
    """Print `command: what was wrong` and exit with status 1; G_PT_DEBUG=1 shows the traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        if os.environ.get("G_PT_DEBUG") == "1":
            raise
        let_the_first_process_speak()
        print(f"{command}: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


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
