"""How many threads a process takes: as its user has said, which is not always what its launcher says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from g_pt.runtime.processes import cpu_threads_of_a_process

ROOT = Path(__file__).parents[2]
# what a launcher does: an OMP_NUM_THREADS of its own where it was started without one, and a mark of its own
LAUNCHER = """
import os, subprocess, sys
os.environ[sys.argv[1]] = "no"
os.environ.setdefault("OMP_NUM_THREADS", sys.argv[2])
program = "from g_pt.runtime.processes import chosen_cpu_threads; print(chosen_cpu_threads())"
raise SystemExit(subprocess.run([sys.executable, "-c", program]).returncode)
"""
CASES = [  # of the user, of the launcher where the user says nothing, what counts
    (None, 1, "None"),
    (None, 4, "4"),  # --num_cpu_threads_per_process 4
    (1, 1, "1"),
    (3, 1, "3"),
]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the system does not tell a parent's environment")
def test_what_a_launcher_sets_by_itself_is_not_taken_for_the_users(subtests: pytest.Subtests) -> None:
    plain = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    for mark in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"):
        for user, launcher, counts in CASES:
            with subtests.test(mark=mark, user=user, launcher=launcher):
                environment = {**plain, "PYTHONPATH": str(ROOT)} | ({"OMP_NUM_THREADS": str(user)} if user else {})
                command = [sys.executable, "-c", LAUNCHER, mark, str(launcher)]
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                assert done.stdout.strip() == counts, done.stderr


def test_the_users_number_counts_over_the_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    for mark in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(mark, raising=False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for value, threads in (("3", 3), ("5,2", 5), (" 2 ", 2), ("0", cores), ("many", cores), ("", cores), ("-1", cores)):
        with subtests.test(value=value):
            monkeypatch.setenv("OMP_NUM_THREADS", value)
            assert cpu_threads_of_a_process() == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "100000")
    assert cpu_threads_of_a_process() == 1
