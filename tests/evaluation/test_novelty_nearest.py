"""The nearest network over all orders of units: against trying every order, and with answers that are known."""

from itertools import pairwise
from itertools import permutations as all_orders

import pytest
import torch
from torch import nn

from g_pt.evaluation.novelty.nearest import NearestNetworks, NetworkDistance
from g_pt.evaluation.novelty.unit_features import lower_bounds, tightened_bounds
from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec


def distance_of(*widths):
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    module = nn.Sequential(*layers[:-1])
    return NetworkDistance(ParameterLayout.from_module(module), PermutationSpec.from_module(module, (widths[0],)))


def networks(distance, num, seed=0):
    return torch.randn(num, distance.layout.num_params, generator=torch.Generator().manual_seed(seed))


def reordered(distance, params, seed=1):
    orders = distance.permutations.draw(distance.layout, len(params), torch.Generator().manual_seed(seed))
    return distance.permutations.permute(params, distance.layout, orders)


def every_order(distance, params):
    """All reorderings of each network: (N, P) to (N, orders, P)."""
    groups = distance.permutations.group_sizes(distance.layout)
    found = [params[:, None]]
    for group, size in groups.items():
        rows = []
        for order in all_orders(range(size)):
            orders = {g: torch.arange(n)[None] for g, n in groups.items()} | {group: torch.tensor([order])}
            flat = distance.permutations.permute(found[-1].flatten(0, 1), distance.layout, orders)
            rows.append(flat.view_as(found[-1]))
        found.append(torch.cat(rows, dim=1))
    return found[-1]


def least_distances(distance, queries, others):
    """By trying every order: (M, N)."""
    tried = every_order(distance, others)  # (N, orders, P)
    return torch.stack([(tried - query).norm(dim=2).amin(dim=1) for query in queries])


@pytest.mark.parametrize("seed", range(3))
def test_the_pruned_search_finds_what_trying_every_order_finds(seed):
    distance = distance_of(3, 5, 2)
    others, queries = networks(distance, 60, seed), networks(distance, 7, seed + 10)
    assert distance.exact
    expected = least_distances(distance, queries, others)
    found = NearestNetworks(others, distance)(queries)
    torch.testing.assert_close(found.distance, expected.amin(dim=1), rtol=1e-5, atol=1e-5)
    assert torch.equal(found.row, expected.argmin(dim=1))


def test_a_network_is_not_its_own_neighbour_when_it_is_excluded():
    distance = distance_of(3, 5, 2)
    others = networks(distance, 40)
    rows = torch.tensor([3, 17, 39])
    search = NearestNetworks(others, distance)
    assert torch.equal(search(others[rows]).row, rows)
    expected = least_distances(distance, others[rows], others)
    expected[torch.arange(3), rows] = torch.inf
    found = search(others[rows], exclude=rows)
    torch.testing.assert_close(found.distance, expected.amin(dim=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("widths", [(3, 4, 2), (2, 3, 4, 2)])
def test_bounds_are_below_every_distance_and_not_far(widths):
    distance = distance_of(*widths)
    others, queries = networks(distance, 12), networks(distance, 4, 1)
    least = least_distances(distance, queries, others).square()
    features = distance.features(others)
    loose = lower_bounds(distance.features(queries), features)
    tight = torch.stack([tightened_bounds(distance.features(q[None]), features) for q in queries])
    assert (loose <= least).all()
    assert (tight <= least).all()
    assert (tight >= loose - 1e-3).all()
    assert (tight / least).mean() > (0.9 if distance.exact else 0.4)


def test_a_reordered_copy_of_a_digits_network_has_distance_zero(digits):
    distance = NetworkDistance(digits.layout, digits.permutations)
    others = digits.init(300, torch.Generator().manual_seed(0))
    copies = reordered(distance, others[[250, 4]])
    found = NearestNetworks(others, distance)(copies)
    assert found.row.tolist() == [250, 4]
    assert found.distance.tolist() == [0.0, 0.0]
    assert (copies - others[[250, 4]]).norm(dim=1).min() > 1


def test_with_several_hidden_layers_noisy_copies_are_found_again():
    distance = distance_of(6, 10, 8, 3)
    assert not distance.exact
    others = networks(distance, 200)
    noise = 0.05 * networks(distance, 5, 3)
    copies = reordered(distance, others[:5] + noise)
    found = NearestNetworks(others, distance)(copies)
    assert found.row.tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(found.distance, noise.norm(dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("widths", [(4, 6, 3), (4, 5, 6, 3)])
def test_distances_of_pairs_are_at_most_those_of_the_networks_as_they_are(widths):
    distance = distance_of(*widths)
    one, other = networks(distance, 6), networks(distance, 6, 1)
    found = distance.pairs(one, other)
    assert (found < (one - other).norm(dim=1)).all()
    torch.testing.assert_close(found, torch.cat([distance.to_one(a, b[None]) for a, b in zip(one, other, strict=True)]))
    assert distance.pairs(one, reordered(distance, one)).max() < 1e-5


def test_a_task_without_hidden_units_has_plain_distances():
    distance = distance_of(3, 2)
    others, queries = networks(distance, 9), networks(distance, 4, 1)
    found = NearestNetworks(others, distance)(queries)
    torch.testing.assert_close(found.distance, torch.cdist(queries, others).amin(dim=1), rtol=1e-5, atol=1e-5)


def test_a_single_network_has_no_nearest_of_many():
    distance = distance_of(3, 4, 2)
    with pytest.raises(ValueError, match="at least 2 networks can be searched, got 1"):
        NearestNetworks(networks(distance, 1), distance)
