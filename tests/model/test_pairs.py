import numpy as np
import torch
from builders import layout_and_permutations

from g_pt.model.pairs import CheckpointPairs


def test_stacked_rows_are_starts_before_targets():
    params = torch.arange(12.0).view(4, 3)
    metric = np.array([[2.0, 1.5], [0.5, 0.25]], dtype=np.float32)
    pairs = CheckpointPairs.from_stacked(params, metric)
    assert len(pairs) == 2
    assert torch.equal(pairs.starting_params, params[:2])
    assert torch.equal(pairs.future_params, params[2:])
    assert pairs.starting_metric.tolist() == [2.0, 1.5]
    assert pairs.future_metric.tolist() == [0.5, 0.25]


def test_moving_keeps_every_part_in_its_place():
    parts = [torch.full((2, 3), float(i)) for i in range(2)] + [torch.full((2,), float(i)) for i in (2, 3)]
    moved = CheckpointPairs(*parts).to(torch.device("meta"))
    assert [t.device.type for t in vars(moved).values()] == ["meta"] * 4
    same = CheckpointPairs(*parts).to(torch.device("cpu"))
    assert [t.flatten()[0].item() for t in vars(same).values()] == [0, 1, 2, 3]


def test_permuting_gives_both_networks_of_a_pair_the_same_order_and_each_pair_its_own(generator):
    layout, permutations = layout_and_permutations((5, 7, 6, 3))
    start = torch.randn(1, layout.num_params, generator=generator).expand(6, -1)
    metric = torch.arange(6.0)
    permuted = CheckpointPairs(start, 2 * start, metric, metric).permuted(
        layout, permutations, permutations.draw(layout, 6, generator)
    )
    assert torch.equal(permuted.future_params, 2 * permuted.starting_params)
    assert torch.equal(permuted.starting_params.sort(dim=1).values, start.sort(dim=1).values)
    assert len(permuted.starting_params.unique(dim=0)) == 6
    assert torch.equal(permuted.starting_metric, metric)


def test_permuting_keeps_every_pair_where_no_unit_can_move(generator):
    layout, permutations = layout_and_permutations((5, 3))
    pairs = CheckpointPairs(*torch.randn(2, 6, layout.num_params, generator=generator), *torch.rand(2, 6))
    permuted = pairs.permuted(layout, permutations, permutations.draw(layout, 6, generator))
    assert torch.equal(permuted.starting_params, pairs.starting_params)
    assert torch.equal(permuted.future_params, pairs.future_params)
