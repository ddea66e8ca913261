"""Seeds derived from a key, so that any part of a computation can be drawn again by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def keyed_generator(*key: int) -> torch.Generator:
    """A generator on the CPU whose stream depends on all numbers of the key, each at least 0."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))  # torch takes 63 bits


@contextmanager
def seeded_global_generator(seed: int) -> Iterator[None]:
    """Seed PyTorch's global generator on the CPU, from which modules draw; afterwards it is as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def global_generator_as(generator: torch.Generator) -> Iterator[None]:
    """Let PyTorch's global generator on the CPU continue another one, which moves along; afterwards it is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        try:
            yield
        finally:
            generator.set_state(torch.get_rng_state())
