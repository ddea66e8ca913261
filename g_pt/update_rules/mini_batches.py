"""Mini-batches of training examples, the same for all networks of a population."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def mini_batches(num_examples: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless mini-batches of example indices: every epoch in a new order, an incomplete last batch dropped.

    Raises:
        ValueError: no epoch holds a whole batch.
    """
    if not 1 <= batch_size <= num_examples:
        raise ValueError(f"batch_size must lie between 1 and {num_examples}, the number of examples, got {batch_size}")
    return endless_epochs(num_examples, batch_size, generator)


def endless_epochs(num_examples: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the batches of `mini_batches`: a generator function of its own, whose body runs only at the first batch."""
    while True:
        order = torch.randperm(num_examples, generator=generator)
        yield from (batch for batch in order.split(batch_size) if len(batch) == batch_size)
