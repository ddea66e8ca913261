"""Programs in processes of their own, several that know each other or one, killed by SIGKILL at a moment of our choice.

They are forked from a server that has imported everything once, so that a test costs no imports.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["launched", "g_pt.commands.train", "g_pt.training.alignment", "g_pt.pictures.training"])
PATIENCE = 500.0  # seconds for a program that takes a few where it has the cores to itself


@dataclass(frozen=True)
class Death:
    """SIGKILL from inside, right after the n-th return of a function, of one process.

    Attributes:
        function: `module:name` or `module:Class.name`.
        call: n.
        rank: of the process.
    """

    function: str
    call: int = 1
    rank: int = 0


@dataclass(frozen=True)
class Limits:
    """A process that can write no file larger than this, as on a full disk.

    Attributes:
        file_size: bytes.
        output: pipe that takes what it prints: no file, so not limited.
    """

    file_size: int
    output: Connection


def run_program(main: str, arguments: Sequence[object], **options: Any) -> list[int]:
    """`start_program`, to its end: exit codes of the processes, which are negative for signals."""
    started = start_program(main, arguments, **options)
    for process in started:
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
    return [int(process.exitcode or 0) for process in started]


def start_program(
    main: str,
    arguments: Sequence[object],
    *,
    processes: int = 1,
    death: Death | None = None,
    limits: Limits | None = None,
) -> list[ForkServerProcess]:
    """Start `module:function(arguments)` in some processes; does not wait for them."""
    port = free_port()
    started = [
        SERVER.Process(target=child, args=(main, list(map(str, arguments)), rank, processes, port, death, limits))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    return started


def child(
    main: str, arguments: list[str], rank: int, processes: int, port: int, death: Death | None, limits: Limits | None
) -> None:
    """What a launcher's child does: the environment of torchrun, then the program."""
    if limits is not None:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(limits.output.fileno(), stream.fileno())
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_size, limits.file_size))
    if processes > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        os.environ.update({name: str(value) for name, value in {**ranks, **meeting}.items()})
    if death is not None and death.rank == rank:
        arm(death)
    module, _, name = main.partition(":")
    getattr(importlib.import_module(module), name)(arguments)


def arm(death: Death) -> None:
    """Let the function kill this process."""
    module, _, path = death.function.partition(":")
    *outer, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in outer:
        owner = getattr(owner, part)
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        result = original(*args, **kwargs)
        calls += 1
        if calls == death.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def free_port() -> int:
    """A port that nobody listens to now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
