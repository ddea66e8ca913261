"""Tasks by name. Importing this file imports no task and no torch."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from g_pt.tasks.base import Task

# name -> "module:class", so that a task is imported only when it is asked for, and so that packages that
# import g_pt can be listed here without being imported by it.
_TASKS: dict[str, str] = {
    "cifar10": "g_pt.tasks.images:CIFAR10",
    "digits": "g_pt.tasks.digits:Digits",
    "digits-deep": "g_pt.tasks.digits:DigitsDeep",
    "fashion-cnn": "g_pt.tasks.images:FashionCNN",
    "fashion-mnist": "g_pt.tasks.images:FashionMNIST",
    "mnist": "g_pt.tasks.images:MNIST",
}


def register_task(name: str, target: str) -> None:
    """Make `get_task(name)` return an instance of `target` ("package.module:Class").

    Raises:
        ValueError: the name is taken by another class.
    """
    if ":" not in target:
        raise ValueError(f"a task is registered as 'package.module:Class', got {target!r}")
    if _TASKS.get(name, target) != target:
        raise ValueError(f"task {name!r} is already registered as {_TASKS[name]}; cannot be {target} too")
    _TASKS[name] = target


def task_names() -> list[str]:
    """Names that `get_task` knows."""
    return sorted(_TASKS)


def get_task(name: str) -> Task:
    """Make the task of that name; the error lists what exists."""
    if name not in _TASKS:
        close = difflib.get_close_matches(name, _TASKS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"there is no task {name!r}; tasks are {task_names()}.{hint}")
    module, _, attribute = _TASKS[name].partition(":")
    task: Task = getattr(import_module(module), attribute)()
    return task
