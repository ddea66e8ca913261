"""Tasks by name. Importing this file imports no task and no torch."""

from __future__ import annotations

import difflib
from functools import cache
from typing import TYPE_CHECKING

from g_pt.tasks.loading import absolute_target, make_task

if TYPE_CHECKING:
    from g_pt.tasks.base import Task
    from g_pt.tasks.family import TaskFamily

# name -> "module:class", so that a task is imported only when it is asked for, and so that packages that
# import g_pt can be listed here without being imported by it.
_TASKS: dict[str, str] = {
    "acrobot": "rl_tasks.acrobot:Acrobot",
    "cartpole": "rl_tasks.cartpole:CartPole",
    "cifar10": "g_pt.tasks.images:CIFAR10",
    "digits": "g_pt.tasks.digits:Digits",
    "digits-deep": "g_pt.tasks.digits:DigitsDeep",
    "fashion-cnn": "g_pt.tasks.images:FashionCNN",
    "fashion-mnist": "g_pt.tasks.images:FashionMNIST",
    "inverted-pendulum": "rl_tasks.inverted_pendulum:InvertedPendulum",
    "mnist": "g_pt.tasks.images:MNIST",
    "moons": "g_pt.tasks.toys:Moons",
    "pendulum": "rl_tasks.pendulum:Pendulum",
    "quadratics": "g_pt.tasks.quadratics:Quadratics",
    "regression": "g_pt.tasks.toys:Wave",
    "spirals": "g_pt.tasks.toys:Spirals",
}

# What every installation has, whatever a process registers.
BUILT_IN = frozenset(_TASKS)

# Of the reference, for models and data imported from it. Not listed with the others and not held to their promises:
# what it calls validation are its test images, and what its policies return cannot be measured here.
_REFERENCE_TASKS: dict[str, str] = {
    "reference-cartpole": "g_pt.reference.cartpole:ReferenceCartpole",
    "reference-cifar10": "g_pt.reference.images:ReferenceCIFAR10",
    "reference-mnist": "g_pt.reference.images:ReferenceMNIST",
}


def register_task(name: str, target: str) -> None:
    """Make `get_task(name)` return an instance of `target` ("package.module:Class" or "path/to/file.py:Class").

    Raises:
        ValueError: the name is taken by another class.
    """
    if ":" in name:
        raise ValueError(f"the name of a task must have no colon, got {name!r}")
    target = absolute_target(target)
    taken = _TASKS.get(name) or _REFERENCE_TASKS.get(name)
    if taken is not None and taken != target:
        raise ValueError(
            f"task {name!r} is already registered as {taken}; cannot be {target} too: change the `name` of one"
        )
    _TASKS[name] = target


def task_names() -> list[str]:
    """Names that `get_task` knows."""
    return sorted(_TASKS)


def get_task(name: str) -> Task:
    """Make a task: one that is registered, or your own from "path/to/file.py:Class" or "package.module:Class".

    Your own is registered under its `name`, by which pipelines that were trained on it find it in this process.
    The file is imported, which runs its code: pass no string here that came with a downloaded file.

    Raises:
        ValueError: there is no such task (the error lists what exists), its file or module cannot be imported, the
            class is no complete task, or its `name` belongs to another task.
        FileNotFoundError: there is no such file.
    """
    if "[" in name:
        return family_member(name)
    if ":" not in name:
        return registered_task(name)
    target = absolute_target(name)
    task = make_task(target)
    register_task(task.name, target)
    return task


def registered_task(name: str) -> Task:
    """Make a task by its registered name; nothing else is imported, wherever the name comes from.

    Raises:
        ValueError: no task is registered under this name (the error lists what exists), or it has another `name`.
    """
    if "[" in name and ":" not in name:
        return family_member(name)
    target = _TASKS.get(name) or _REFERENCE_TASKS.get(name)
    if target is None:
        close = difflib.get_close_matches(name, _TASKS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"there is no task {name!r}; tasks are {task_names()}.{hint} Name a task of your own by its class: --task "
            "my_task.py:MyTask, or get_task('my_task.py:MyTask')"
        )
    task = make_task(target)
    if task.name != name:  # files keep the task's own name: it has to lead back here
        raise ValueError(f"{target} is registered as {name!r}, but its `name` is {task.name!r}: make them equal")
    return task


def is_family(name: str | None) -> bool:
    """Whether networks of many sizes are meant: `digits[64-*-10]`."""
    return name is not None and "[" in name and "*" in name


def is_registered(name: str | None) -> bool:
    """Whether `registered_task`, or `get_family` for a family, finds the name."""
    return name is not None and name.partition("[")[0] in _TASKS


def get_family(name: str) -> TaskFamily:
    """The family `base[64-*-10]` of tasks of many sizes; the base is named as for `get_task`.

    Families are kept, so that the data and what is derived of networks are there once.

    Raises:
        ValueError: the name is none, or see `get_task` and `TaskFamily`.
    """
    base, bracket, sizes = name.partition("[")
    if not bracket or not sizes.endswith("]"):
        raise ValueError(f"a family of tasks is named like digits[64-*-10], got {name!r}")
    task = get_task(base)
    return make_family(_TASKS[task.name], sizes[:-1])


def base_task(name: str) -> Task:
    """The task of this name, or the base of the family; raises as `get_task` and `get_family` do."""
    return get_family(name).base if is_family(name) else get_task(name)


@cache
def make_family(target: str, sizes: str) -> TaskFamily:
    """The one family of a class and sizes in this process."""
    from g_pt.tasks.family import TaskFamily

    return TaskFamily(make_task(target), sizes)


def family_member(name: str) -> Task:
    """The task `digits[64-24-10]`."""
    if is_family(name):
        raise ValueError(f"{name} are tasks of many sizes: name one of them, such as {name.replace('*', '16')}")
    base, _, sizes = name.partition("[")
    first, *hidden, last = sizes.removesuffix("]").split("-") if sizes.count("-") > 1 else ("", "", "")
    if not all(width.isdecimal() for width in hidden):
        raise ValueError(f"a task of a family is named like digits[64-24-10], got {name!r}")
    return get_family(f"{base}[{first}-**-{last}]").member(tuple(map(int, hidden)))
