"""How a training program on the CPU keeps the memory that it frees at every step and needs again at the next."""

from __future__ import annotations

import ctypes
import sys

# parameters of mallopt(3), from malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory of this process, to hand it out again; whether it can be told so.

    As it comes, glibc gives every large tensor pages of its own and returns them when the tensor is freed, and the
    system clears pages when they are first written to: 50,000 page faults in each step of
    `benchmarks/training_step.py`, an eighth of its time (--memory-as-it-comes). Kept is as much as the program
    has needed at once. Other systems and other allocators are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(M_MMAP_MAX, 0) and library.mallopt(M_TRIM_THRESHOLD, LARGEST))
