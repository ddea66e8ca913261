"""What all commands do at the terminal: errors in one sentence, warnings in one line, no bars in pipes."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def show_warnings(command: str) -> None:
    """Print warnings as `command: warning: what`, without the line of code that gave them."""
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
        print(f"{command}: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
