"""Mini-batches: every epoch in a new order, and only whole ones."""

import pytest
import torch

from g_pt.update_rules.mini_batches import mini_batches


@pytest.mark.parametrize("batch_size", [11, 0, -1])
def test_a_batch_that_no_epoch_holds_is_refused_when_asked_for(batch_size):
    with pytest.raises(ValueError, match=f"batch_size must lie between 1 and 10, .* got {batch_size}"):
        mini_batches(10, batch_size, torch.Generator())
    assert len(next(mini_batches(10, 10, torch.Generator()))) == 10


def test_every_epoch_shows_every_example_at_most_once_in_a_new_order():
    batches = mini_batches(10, 4, torch.Generator().manual_seed(0))
    epochs = [torch.cat([next(batches), next(batches)]) for _ in range(5)]
    assert all(len(set(e.tolist())) == 8 for e in epochs)
    assert len({tuple(e.tolist()) for e in epochs}) == 5
