"""Seeds derived from a key, so that any part of a computation can be drawn again by itself."""

from __future__ import annotations

import numpy as np
import torch


def keyed_generator(*key: int) -> torch.Generator:
    """A generator on the CPU whose stream depends on all numbers of the key, each at least 0."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))  # torch takes 63 bits
