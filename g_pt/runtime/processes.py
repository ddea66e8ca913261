"""The processes that one launch has started, on one host or on several. Imports no torch, so that commands start fast.

`torchrun` and `accelerate launch` say in the environment who is who; whoever wants to talk joins a process group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

Value = TypeVar("Value")

# The others wait for the first process where only that one has something to do, which may be a long evaluation.
PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Team:
    """This process among all of a launch.

    Attributes:
        index: of this process over all hosts.
        count: of processes on all hosts.
    """

    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that does what is done once."""
        return self.index == 0

    def from_first(self, value: Value) -> Value:
        """The value that the first process has; all must call this. Values are pickled."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        values: list[Any] = [value]
        with all_needed():
            broadcast_object_list(values)
        return values[0]

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.count > 1:
            from accelerate import PartialState

            with all_needed():
                PartialState().wait_for_everyone()

    def part(self, items: list[Value]) -> list[Value]:
        """Every n-th item, beginning with the n-th for the n-th process: what this one does of a common list."""
        return items[self.index :: self.count]


@contextmanager
def all_needed() -> Iterator[None]:
    """Talk to the other processes; where one of them has died, say so in one sentence (OSError)."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            "another process of this launch has ended before its work was done; give the same command again, it "
            "continues where it stopped"
        ) from error


def join_team() -> Team:
    """Meet the other processes of this launch, on CPUs; alone, nothing is imported.

    Raises:
        ValueError: see `check_launch`.
    """
    check_launch()
    if launched_processes() == 1:
        return Team()
    from accelerate import PartialState

    state = PartialState(cpu=True, timeout=PATIENCE)
    return Team(state.process_index, state.num_processes)


def leave_team(team: Team) -> None:
    """End the process group, so that no process complains of another that has ended."""
    if team.count > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()


def launched_processes() -> int:
    """How many processes the launcher says it has started, on all hosts."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def processes_of_this_host() -> int:
    """How many of them share the cores of this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", launched_processes()))


def cpu_threads_of_a_process() -> int:
    """Threads that the user's OMP_NUM_THREADS grants; without it the cores of this process, shared with the others."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return chosen_cpu_threads() or max(1, cores // processes_of_this_host())


def let_waiting_threads_sleep() -> None:
    """Have threads sleep while they wait for each other, where the user has not said how they wait (OMP_WAIT_POLICY).

    By default they spin, which on cores that others use too costs several times the time and the CPU time of a step.
    To be called before torch is imported: OpenMP reads the variable once, when it is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def chosen_cpu_threads() -> int | None:
    """OMP_NUM_THREADS as the user has set it, or None.

    `accelerate launch`, and `torchrun` with several processes, set it to 1 where nobody has. Such a 1 counts only where
    the launcher was started with it.
    """
    threads = first_number(os.environ.get("OMP_NUM_THREADS", ""))
    if threads == 1 and is_launched() and first_number(environment_of_parent().get("OMP_NUM_THREADS", "")) != 1:
        return None
    return threads


def first_number(value: str) -> int | None:
    """The first of numbers separated by commas (one per level of nesting), if it is one, and positive."""
    first = value.split(",")[0].strip()
    return int(first) or None if first.isascii() and first.isdecimal() else None


def is_launched() -> bool:
    """Whether `accelerate launch` or `torchrun` has started this process."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ


def environment_of_parent() -> dict[str, str]:
    """With what the process that started this one was itself started; empty where the system does not tell."""
    try:
        entries = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    return dict(os.fsdecode(entry).split("=", 1) for entry in entries if b"=" in entry)


def check_launch() -> None:
    """Refuse a launch that was asked for several processes and started one.

    `accelerate launch --cpu --num_processes 2` does that without a word; all it leaves is an address at which nobody
    will ever meet.

    Raises:
        ValueError: so it is.
    """
    environment = os.environ
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in environment
    if by_accelerate and {"MASTER_ADDR", "MASTER_PORT"} <= set(environment) and "WORLD_SIZE" not in environment:
        raise ValueError(
            "accelerate launch was asked for several processes but has started one, as it does with --cpu; say "
            "accelerate launch --multi_gpu --num_processes 2 (on CPUs too), or torchrun --nproc_per_node 2; for one "
            "process, unset MASTER_ADDR"
        )
