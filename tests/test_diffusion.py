import pytest
import torch
from diffusers import DDPMScheduler

from g_pt.diffusion import MAX_SNR, diffusion_loss, linear_alphas_cumprod, q_sample
from g_pt.normalization import ParameterNormalizer
from g_pt.pairs import CheckpointPairs

SCHEDULES = [(1000, 1e-4, 0.02), (100, 1e-3, 0.2)]


@pytest.fixture
def abar():
    return linear_alphas_cumprod(1000, 1e-4, 0.02)


@pytest.fixture
def pairs(generator):
    params = torch.randn(16, 12, generator=generator)
    metric = torch.rand(2, 8, generator=generator).numpy()
    return CheckpointPairs.from_stacked(params, metric)


@pytest.fixture
def normalizer():
    normalizer = ParameterNormalizer(12)
    normalizer.mean.fill_(0.5)
    normalizer.std.fill_(2.0)
    return normalizer


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_noise_schedule_is_that_of_diffusers(schedule):
    num, start, end = schedule
    theirs = DDPMScheduler(num, beta_start=start, beta_end=end, beta_schedule="linear").alphas_cumprod
    torch.testing.assert_close(linear_alphas_cumprod(*schedule), theirs, rtol=1e-6, atol=1e-6)


def test_the_schedule_goes_from_almost_clean_to_almost_noise(abar):
    assert abar.shape == (1000,)
    assert abar[0].item() == pytest.approx(1 - 1e-4, abs=1e-7)
    assert (abar.diff() < 0).all()
    assert abar[-1] < 1e-4


def test_q_sample_equals_add_noise_of_diffusers(abar, generator):
    x_0, noise = torch.randn(2, 64, 12, generator=generator)
    t = torch.randint(1000, (64,), generator=generator)
    theirs = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02).add_noise(x_0, noise, t)
    torch.testing.assert_close(q_sample(x_0, noise, abar[t]), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("t", [0, 100, 500, 999])
def test_unit_variance_is_preserved(abar, t, generator):
    x_0, noise = torch.randn(2, 200, 1000, generator=generator, dtype=torch.float64)
    x_t = q_sample(x_0, noise, abar[t].double().expand(200))
    assert x_t.var().item() == pytest.approx(1, abs=0.015)  # 4.7 standard errors
    correlation = (x_t * x_0).mean().item()
    assert correlation == pytest.approx(abar[t].sqrt().item(), abs=0.015)


def loss_of(model, pairs, normalizer, abar, weighting="uniform", timesteps=None):
    timesteps = torch.arange(len(pairs)) * 100 if timesteps is None else timesteps
    noise = torch.randn(len(pairs), 12, generator=torch.Generator().manual_seed(5))
    return diffusion_loss(model, normalizer, pairs, timesteps, noise, abar, weighting).item()


@pytest.mark.parametrize("weighting", ["uniform", "snr"])
def test_a_perfect_model_has_no_loss(pairs, normalizer, abar, weighting):
    def perfect(*inputs):
        return normalizer.normalize(pairs.future_params)

    assert loss_of(perfect, pairs, normalizer, abar, weighting) == 0


def test_the_loss_of_a_known_error_is_its_mean_square(pairs, normalizer, abar):
    def off(*inputs):
        return normalizer.normalize(pairs.future_params) + 3

    assert loss_of(off, pairs, normalizer, abar) == pytest.approx(9, rel=1e-5)


def test_the_model_is_given_the_noised_future_the_start_and_both_metrics(pairs, normalizer, abar):
    seen = []
    timesteps = torch.arange(8) * 100
    loss_of(lambda *inputs: seen.extend(inputs) or inputs[0], pairs, normalizer, abar, timesteps=timesteps)
    x_t, t, x_start, starting_metric, prompted_metric = seen
    noise = torch.randn(8, 12, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(x_t, q_sample((pairs.future_params - 0.5) / 2, noise, abar[timesteps]))
    assert torch.equal(t, timesteps)
    torch.testing.assert_close(x_start, (pairs.starting_params - 0.5) / 2)
    assert torch.equal(starting_metric, pairs.starting_metric)
    assert torch.equal(prompted_metric, pairs.future_metric)


def test_the_weights_of_snr_have_mean_one_and_are_capped(pairs, normalizer, abar):
    def off(*inputs):
        return normalizer.normalize(pairs.future_params) + 1

    weights = torch.tensor([loss_of(off, pairs, normalizer, abar, "snr", torch.full((8,), t)) for t in range(1000)])
    assert weights.mean().item() == pytest.approx(1, abs=1e-4)
    snr = abar / (1 - abar)
    capped = snr > MAX_SNR
    assert torch.allclose(weights[capped], weights[0])
    torch.testing.assert_close(weights[~capped] / weights[0], snr[~capped] / MAX_SNR, rtol=1e-4, atol=1e-6)


def test_pairs_hold_starts_before_targets():
    pairs = CheckpointPairs.from_stacked(torch.arange(4.0)[:, None], torch.tensor([[10.0, 11], [12, 13]]).numpy())
    assert pairs.starting_params.flatten().tolist() == [0, 1]
    assert pairs.future_params.flatten().tolist() == [2, 3]
    assert pairs.starting_metric.tolist() == [10, 11]
    assert pairs.future_metric.tolist() == [12, 13]
    assert len(pairs.to(torch.device("cpu"))) == 2
