"""Copying scores, mistakes in common, spread: against scipy, by hand, and on copies that are known."""

import pytest
import torch
from scipy.stats import mannwhitneyu

from g_pt.evaluation.novelty.copying import copying_interval, copying_score
from g_pt.evaluation.novelty.errors_in_common import overlap_of_peers, overlaps, wrong_answers
from g_pt.evaluation.novelty.nearest import NearestNetworks, NetworkDistance
from g_pt.evaluation.novelty.spread import random_pairs, spread


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


def nearest(points, training):
    return torch.cdist(points, training).amin(dim=1)


def test_the_score_is_the_z_of_mann_whitney():
    one, other = normal(80), normal(60, seed=1) + 1
    p = mannwhitneyu(one, other, method="asymptotic", use_continuity=False).pvalue
    expected = -torch.distributions.Normal(0, 1).icdf(torch.tensor(1 - p / 2)).item()
    assert copying_score(one, other) == pytest.approx(expected, rel=1e-3)
    assert copying_score(other, one) == pytest.approx(-expected, rel=1e-3)


def test_noisy_copies_score_far_below_zero_and_fresh_points_near_it():
    training, held_out, fresh = normal(400, 10), normal(200, 10, seed=1), normal(200, 10, seed=2)
    copies = training[:200] + 0.2 * normal(200, 10, seed=3)
    known = nearest(held_out, training)
    assert copying_score(nearest(copies, training), known) < -10
    assert abs(copying_score(nearest(fresh, training), known)) < 2.5
    assert copying_score(nearest(1.5 * fresh, training), known) > 10


def test_the_same_holds_for_networks_over_all_orders_of_units(digits):
    networks = digits.init(260, generator())
    training, held_out, fresh = networks[:100], networks[100:180], networks[180:]
    distance = NetworkDistance(digits.layout, digits.permutations)
    orders = distance.permutations.draw(digits.layout, 80, generator(1))
    copies = distance.permutations.permute(training[:80] + 0.01 * normal(80, 1210), digits.layout, orders)
    search = NearestNetworks(training, distance)
    known = search(held_out).distance
    assert copying_score(search(copies).distance, known) < -8
    assert abs(copying_score(search(fresh).distance, known)) < 2.5


def test_the_interval_holds_the_score_and_shrinks_with_more_networks():
    few, many = ((normal(n, seed=1).abs() * 0.8, normal(n, seed=2).abs()) for n in (20, 320))
    for sides in (few, many):
        found = copying_interval(*sides)
        assert found.low < copying_score(*sides) == found.mean < found.high
    # a z score of n networks has about the same spread for every n, and a mean that grows with its root
    assert copying_interval(*many).mean < 2 * copying_interval(*few).mean < 0


def test_ties_count_half():
    assert copying_score(torch.ones(5), torch.ones(7)) == 0


def test_a_side_with_one_distance_has_no_score():
    with pytest.raises(ValueError, match="at least 2 distances"):
        copying_score(torch.ones(1), torch.ones(5))


def test_mistakes_in_common_over_mistakes_of_either():
    wrong = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    others = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    expected = torch.tensor([[1 / 3, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    torch.testing.assert_close(overlaps(wrong, others), expected)


def test_peers_are_those_with_as_many_mistakes():
    peers = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]]).bool()
    wrong = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]).bool()
    found = overlap_of_peers(wrong, peers, torch.tensor([0.1, 0.4, 0.6, 0.9]), num=2)
    assert found[0] == pytest.approx(0.5)
    assert found[1] == pytest.approx((0.9 + 0.4) / 2)


def test_wrong_answers_are_those_that_the_error_counts(digits):
    params = 3 * digits.init(7, generator())
    error = 100 * wrong_answers(digits, params).float().mean(dim=1)
    torch.testing.assert_close(error, digits.evaluate(params, "test")["error"])


def test_random_pairs_are_of_different_networks_and_of_all():
    one, other = random_pairs(5, 2000, generator())
    assert (one != other).all()
    counts = torch.bincount(5 * one + other, minlength=25).view(5, 5)
    assert counts.fill_diagonal_(100).min() > 60


def test_the_spread_of_reordered_copies_is_zero_over_all_orders(digits):
    one = digits.init(1, generator())
    distance = NetworkDistance(digits.layout, digits.permutations)
    orders = distance.permutations.draw(digits.layout, 6, generator(1))
    copies = distance.permutations.permute(one.expand(6, -1), digits.layout, orders)
    found = spread(copies, distance, 20, generator(2))
    assert found.matched.max() == 0
    assert found.raw.mean() > 1
