"""Public names of a package, imported when they are first used (PEP 562).

The package `lazy_loader` does the same; these lines need no dependency, and their error lists the names that exist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Make a package's `__getattr__` from `{name: module that defines it}`."""

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {sorted(homes)}")
        return getattr(import_module(homes[name]), name)

    return get
