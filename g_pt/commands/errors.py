"""One sentence and an exit status instead of a traceback, for errors that a user can mend."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
