"""Making a task from the class that defines it, in a file or in an importable module. Imports no torch by itself."""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from g_pt.tasks.base import Task

EXAMPLE = "path/to/file.py:Class or package.module:Class"


def absolute_target(target: str) -> str:
    """Spell "file.py:Class" with the whole path, so that it holds from any folder; "module:Class" stays."""
    module, _, attribute = target.rpartition(":")
    if not module or not attribute:
        raise ValueError(f"a task of your own is named {EXAMPLE}, got {target!r}")
    return f"{Path(module).expanduser().resolve()}:{attribute}" if is_file_name(module) else target


def make_task(target: str) -> Task:
    """Import the class and make the task.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file or module cannot be imported, has no such class, or the class is no complete task.
    """
    from g_pt.tasks.base import Task

    name, _, attribute = target.rpartition(":")
    module = import_file(Path(name)) if is_file_name(name) else import_named(name)
    found = getattr(module, attribute, None)
    if found is None:
        classes = {n: v for n, v in vars(module).items() if inspect.isclass(v) and issubclass(v, Task)}
        tasks = sorted(n for n, v in classes.items() if not inspect.isabstract(v))  # a file imports its base class too
        raise ValueError(f"{name} has no {attribute!r}; the tasks in it are {tasks}")
    if not inspect.isclass(found) or not issubclass(found, Task):
        raise ValueError(f"{target} must be a class derived from g_pt.Task, got {found!r}")
    if missing := sorted(found.__abstractmethods__):
        raise ValueError(f"{target} is not complete: define {missing}")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise ValueError(f"{target} must be made without arguments ({error}): give them default values") from error
    task = found()
    own_name = getattr(task, "name", None)
    if not isinstance(own_name, str) or not own_name or ":" in own_name:
        raise ValueError(f"{target} must have a `name`, a string without colon such as 'my-task', got {own_name!r}")
    return task


def is_file_name(module: str) -> bool:
    """Whether "file.py" is meant, not "package.module"."""
    return module.endswith(".py") or "/" in module or "\\" in module


def import_named(name: str) -> ModuleType:
    """Import a module that is installed or on PYTHONPATH."""
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"module {name!r} cannot be imported ({describe(error, None)}); install it, put its folder on PYTHONPATH, "
            "or name the file: path/to/file.py:Class"
        ) from error


def import_file(path: Path) -> ModuleType:
    """Import a file once per process, under a name that no other module has."""
    path = path.resolve()
    name = f"g_pt_task_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; a task of your own is named {EXAMPLE}")
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} must be a Python file, ending in .py")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up while the file runs
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a program without a main guard may end with sys.exit()
        del sys.modules[name]
        hint = "; its folder is not searched: put it on PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise ValueError(f"{path} cannot be imported: {describe(error, path)}{hint}") from error
    return module


def describe(error: BaseException, path: Path | None) -> str:
    """Kind and message of an error, and the last line of the file that led to it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{type(error).__name__}: {error}" + (f" (line {lines[-1]})" if lines else "")
