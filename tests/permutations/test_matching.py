"""The nearest order of units, against brute force and against a reordering that is known."""

from itertools import pairwise
from itertools import permutations as all_orders

import pytest
import torch
from torch import nn

from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec
from g_pt.permutations.matching import matched


def family(*widths):
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    module = nn.Sequential(*layers[:-1])
    return ParameterLayout.from_module(module), PermutationSpec.from_module(module, (widths[0],))


def networks(layout, num, seed=0):
    return torch.randn(num, layout.num_params, generator=torch.Generator().manual_seed(seed))


def test_one_hidden_layer_is_matched_as_well_as_by_trying_every_order():
    layout, spec = family(3, 4, 2)
    [group] = spec.group_sizes(layout)
    one, other = networks(layout, 2)
    tried = [spec.permute(other[None], layout, {group: torch.tensor([order])}) for order in all_orders(range(4))]
    best = min((one - t[0]).norm().item() for t in tried)
    assert (matched(one, other[None], layout, spec)[0] - one).norm().item() == pytest.approx(best, rel=1e-6)
    assert (one - other).norm() > best * 1.02


@pytest.mark.parametrize("widths", [(5, 12, 3), (6, 10, 8, 3)])
def test_a_reordered_network_is_found_again(widths):
    layout, spec = family(*widths)
    one = networks(layout, 1)
    orders = spec.draw(layout, 5, torch.Generator().manual_seed(1))
    noise = 0.01 * networks(layout, 5, seed=2)
    reordered = spec.permute(one + noise, layout, orders)
    assert (reordered - one).norm(dim=1).min() > 3
    torch.testing.assert_close(matched(one[0], reordered, layout, spec), one + noise)


def test_matching_brings_no_network_farther_and_keeps_its_function():
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(),
                           nn.Linear(5 * 4, 3)).eval()  # fmt: skip
    layout = ParameterLayout.from_module(module)
    spec = PermutationSpec.from_module(module, (1, 6, 6))
    one, *others = networks(layout, 4).abs()
    others = torch.stack(others)
    found = matched(one, others, layout, spec)
    assert ((found - one).norm(dim=1) < (others - one).norm(dim=1)).all()
    inputs = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    for before, after in zip(others, found, strict=True):
        outputs = [torch.func.functional_call(module, layout.unflatten(p), (inputs,)) for p in (before, after)]
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


def test_a_network_without_permutable_units_stays_as_it_is():
    layout, spec = family(3, 2)
    one, other = networks(layout, 2)
    assert torch.equal(matched(one, other[None], layout, spec)[0], other)
