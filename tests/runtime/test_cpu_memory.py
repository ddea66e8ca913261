"""Freed memory is used again instead of being asked of the system anew."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from g_pt.runtime.cpu_memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    assert keep_freed_memory()
counts = []
for _ in range(16):  # the first few find their places
    before = faults()
    blocks = [bytearray(b"x") * 40_000_000 for _ in range(2)]  # 20,000 pages
    del blocks
    counts.append(faults() - before)
print(sorted(counts)[8])
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a matter of glibc")
def test_tensors_of_the_next_step_take_the_pages_of_the_last() -> None:
    assert page_faults("keep") < 100 < 19_000 < page_faults("leave")
