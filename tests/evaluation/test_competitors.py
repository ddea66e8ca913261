"""Trivial generators: each has the statistics it promises."""

from dataclasses import replace

import pytest
import torch

from g_pt.evaluation.baselines import (
    COMPETITORS,
    aligned_runs,
    principal_components,
    register_competitor,
    tensor_deviations,
)
from g_pt.evaluation.runs import RunSet


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def run_set(starts, ends, layout):
    """Runs of two checkpoints each, whose metrics nobody asks for."""
    unknown = torch.full((len(ends),), torch.nan)
    trajectories = torch.stack([starts, ends], dim=1)
    return RunSet(starts, ends, unknown, ends, unknown, trajectories, torch.tensor([0, 1]), layout)


@pytest.fixture(scope="module")
def runs(digits):
    starts = digits.init(300, generator())
    scale = torch.linspace(0.5, 2, digits.layout.num_params)
    ends = starts + 1 + scale * torch.randn(starts.shape, generator=generator(1))
    return run_set(starts, ends, digits.layout)


def made(name, runs, num=200):
    asked = torch.zeros(num, runs.ends.shape[1])
    return COMPETITORS[name].generate(runs, asked, generator(2))


def nearest(networks, runs):
    distances, rows = torch.cdist(networks, runs.ends).min(dim=1)
    return distances, rows


@pytest.mark.parametrize("amplitude", [0.1, 0.2, 0.5])
def test_noise_has_the_promised_share_of_each_tensors_deviation(runs, amplitude):
    networks = made(f"noise {amplitude:g}", runs)
    _, rows = nearest(networks, runs)
    assert len(rows.unique()) > 100
    noise = networks - runs.ends[rows]
    for part in runs.layout.slices.values():
        assert noise[:, part].std() == pytest.approx(amplitude * runs.ends[:, part].std().item(), rel=0.05)
    expected = (amplitude * tensor_deviations(runs)).norm()
    assert noise.norm(dim=1).mean() == pytest.approx(expected.item(), rel=0.02)


def test_retrieval_gives_the_end_of_the_nearest_start(runs):
    asked = runs.starts[[7, 250]] + 0.001
    assert torch.equal(COMPETITORS["nearest start"].generate(runs, asked, generator()), runs.ends[[7, 250]])


def test_interpolations_lie_on_the_line_between_two_runs(runs):
    distances, rows = nearest(made("interpolation", runs, 20), runs)
    usual = torch.pdist(runs.ends).mean()
    assert (distances < 0.55 * usual).all()
    pair = replace(runs, starts=runs.starts[:2], ends=runs.ends[:2])
    weights = (made("interpolation", pair) - pair.ends[0]) @ (pair.ends[1] - pair.ends[0])
    weights = weights / (pair.ends[1] - pair.ends[0]).square().sum()
    assert 0.4 < weights.mean() < 0.6
    assert weights.min() > -1e-3
    assert weights.max() < 1 + 1e-3
    assert len(rows.unique()) > 10


def test_averages_of_16_have_a_sixteenth_of_the_variance(runs):
    networks = made("average of 16", runs)
    assert networks.mean() == pytest.approx(runs.ends.mean().item(), abs=0.01)
    ratio = (networks.var(dim=0) / runs.ends.var(dim=0)).mean()
    assert ratio == pytest.approx(1 / 16, rel=0.05)
    noisy = made("average of 16, noise 0.5", runs)
    extra = (noisy.var(dim=0) - networks.var(dim=0)) / tensor_deviations(runs).square()
    assert extra.mean() == pytest.approx(0.25, rel=0.05)


def test_the_gaussian_has_the_mean_and_deviation_of_each_parameter(runs):
    networks = made("Gaussian", runs, 2000)
    torch.testing.assert_close(networks.mean(dim=0), runs.ends.mean(dim=0), rtol=0, atol=0.25)
    torch.testing.assert_close(networks.std(dim=0), runs.ends.std(dim=0), rtol=0.15, atol=0)


@pytest.mark.parametrize("num_runs", [40, 2000])  # fewer and more than parameters
def test_principal_components_are_those_of_a_singular_value_decomposition(num_runs):
    params = torch.randn(num_runs, 50, generator=generator()) * torch.logspace(0, -1, 50) + 3
    mean, directions, deviations = principal_components(params, 5)
    _, values, vectors = torch.linalg.svd(params - params.mean(dim=0), full_matrices=False)
    torch.testing.assert_close(mean, params.mean(dim=0))
    torch.testing.assert_close(deviations, values[:5] / (num_runs - 1) ** 0.5, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close((directions @ vectors[:5].T).abs(), torch.eye(5), rtol=0, atol=0.02)


def test_draws_from_components_stay_in_their_plane_and_have_their_variance(runs):
    networks = made("PCA 16", runs, 1000)
    centred = networks - runs.ends.mean(dim=0)
    assert torch.linalg.matrix_rank(centred, rtol=1e-4) == 16
    _, values, _ = torch.linalg.svd(runs.ends - runs.ends.mean(dim=0), full_matrices=False)
    expected = values[:16].square().sum() / (len(runs.ends) - 1)
    assert centred.square().sum(dim=1).mean() == pytest.approx(expected.item(), rel=0.1)


def test_more_components_than_runs_are_those_there_are():
    params = torch.randn(6, 30, generator=generator())
    assert len(principal_components(params, 16)[2]) == 5


def test_alignment_undoes_reorderings_and_keeps_functions(digits):
    one = digits.init(1, generator())
    noisy = one + 0.02 * torch.randn(30, 1210, generator=generator(1))
    orders = digits.permutations.draw(digits.layout, 30, generator(2))
    reordered = digits.permutations.permute(noisy, digits.layout, orders)
    found = aligned_runs(reordered, digits.layout, digits.permutations)
    assert (found - found.mean(dim=0)).norm(dim=1).mean() < 1.05 * 0.02 * 1210**0.5
    assert (reordered - reordered.mean(dim=0)).norm(dim=1).mean() > 2
    for name, values in digits.evaluate(reordered).items():
        torch.testing.assert_close(digits.evaluate(found)[name], values, rtol=1e-4, atol=0.3)


def test_every_competitor_makes_one_finite_network_per_start_and_repeats_itself(runs):
    for competitor in COMPETITORS.values():
        first, second = (competitor.generate(runs, runs.starts[:5], generator(4)) for _ in range(2))
        assert first.shape == (5, 1210)
        assert first.isfinite().all()
        assert torch.equal(first, second), competitor.name
        assert competitor.description


def test_names_are_taken_once():
    with pytest.raises(ValueError, match="'Gaussian' already"):
        register_competitor("Gaussian", "again")(COMPETITORS["Gaussian"].generate)
