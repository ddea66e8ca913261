import pytest
import torch
from diffusers import DDPMScheduler

from g_pt.model.diffusion import MAX_SNR, Objective, diffusion_loss, tensor_weights
from g_pt.model.noise import NoiseSchedule
from g_pt.model.normalization import ParameterNormalizer
from g_pt.model.pairs import CheckpointPairs
from g_pt.networks.parameters import ParameterLayout

SCHEDULES = [(1000, 1e-4, 0.02), (100, 1e-3, 0.2)]
SCHEDULE = NoiseSchedule.linear(*SCHEDULES[0])


@pytest.fixture
def abar():
    """Share of x_0 in the variance of x_t."""
    return SCHEDULE.alpha.square()


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
    ours = NoiseSchedule.linear(*schedule)
    torch.testing.assert_close(ours.alpha.square(), theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.sigma.square(), 1 - theirs, rtol=1e-6, atol=1e-6)
    assert len(ours) == num


def test_the_schedule_goes_from_almost_clean_to_almost_noise(abar):
    assert abar.shape == (1000,)
    assert abar[0].item() == pytest.approx(1 - 1e-4, abs=1e-7)
    assert (abar.diff() < 0).all()
    assert abar[-1] < 1e-4


def test_q_sample_equals_add_noise_of_diffusers(generator):
    x_0, noise = torch.randn(2, 64, 12, generator=generator)
    t = torch.randint(1000, (64,), generator=generator)
    theirs = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02).add_noise(x_0, noise, t)
    torch.testing.assert_close(SCHEDULE[t].add_noise(x_0, noise), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("t", [0, 100, 500, 999])
def test_unit_variance_is_preserved(abar, t, generator):
    x_0, noise = torch.randn(2, 200, 1000, generator=generator, dtype=torch.float64)
    x_t = SCHEDULE[torch.tensor([t]).expand(200)].add_noise(x_0, noise)
    assert x_t.var().item() == pytest.approx(1, abs=0.015)  # 4.7 standard errors
    correlation = (x_t * x_0).mean().item()
    assert correlation == pytest.approx(abar[t].sqrt().item(), abs=0.015)


def loss_of(model, pairs, normalizer, weighting="uniform", timesteps=None, **objective):
    timesteps = torch.arange(len(pairs)) * 100 if timesteps is None else timesteps
    noise = torch.randn(len(pairs), 12, generator=torch.Generator().manual_seed(5))
    return diffusion_loss(
        model, normalizer, pairs, timesteps, noise, SCHEDULE, Objective(weighting=weighting, **objective)
    ).item()


@pytest.mark.parametrize("weighting", ["uniform", "snr"])
def test_a_perfect_model_has_no_loss(pairs, normalizer, weighting):
    def perfect(*inputs):
        return normalizer.normalize(pairs.future_params)

    assert loss_of(perfect, pairs, normalizer, weighting) == 0


def test_the_loss_of_a_known_error_is_its_mean_square(pairs, normalizer):
    def off(*inputs):
        return normalizer.normalize(pairs.future_params) + 3

    assert loss_of(off, pairs, normalizer) == pytest.approx(9, rel=1e-5)


def test_the_model_is_given_the_noised_future_the_start_and_both_metrics(pairs, normalizer):
    seen = []
    timesteps = torch.arange(8) * 100
    loss_of(lambda *inputs: seen.extend(inputs) or inputs[0], pairs, normalizer, timesteps=timesteps)
    x_t, t, x_start, starting_metric, prompted_metric = seen
    noise = torch.randn(8, 12, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(x_t, SCHEDULE[timesteps].add_noise((pairs.future_params - 0.5) / 2, noise))
    assert torch.equal(t, timesteps)
    torch.testing.assert_close(x_start, (pairs.starting_params - 0.5) / 2)
    assert torch.equal(starting_metric, pairs.starting_metric)
    assert torch.equal(prompted_metric, pairs.future_metric)


def test_the_weights_of_snr_have_mean_one_and_are_capped(pairs, normalizer, abar):
    def off(*inputs):
        return normalizer.normalize(pairs.future_params) + 1

    weights = torch.tensor([loss_of(off, pairs, normalizer, "snr", torch.full((8,), t)) for t in range(1000)])
    assert weights.mean().item() == pytest.approx(1, abs=1e-4)
    snr = abar / (1 - abar)
    capped = snr > MAX_SNR
    assert torch.allclose(weights[capped], weights[0])
    torch.testing.assert_close(weights[~capped] / weights[0], snr[~capped] / MAX_SNR, rtol=1e-4, atol=1e-6)


def test_under_v_prediction_the_weights_of_snr_are_those_of_the_error_of_x_0(pairs, normalizer, abar):
    def off(x_t, timesteps, *others):  # an x_0 that is off by one, as the v that implies it
        a = abar[timesteps][:, None]
        return (a.sqrt() * x_t - normalizer.normalize(pairs.future_params) - 1) / (1 - a).sqrt()

    losses = [
        loss_of(off, pairs, normalizer, "snr", torch.full((8,), t), prediction_type="v_prediction")
        for t in (0, 200, 500, 900)
    ]
    wanted = (abar / (1 - abar)).clamp(max=MAX_SNR)[[0, 200, 500, 900]] / MAX_SNR
    torch.testing.assert_close(torch.tensor(losses) / losses[0], wanted, rtol=1e-2, atol=1e-5)


def test_velocity_equals_that_of_diffusers_and_undoes_itself(generator):
    x_0, noise = torch.randn(2, 64, 12, generator=generator)
    t = torch.randint(1000, (64,), generator=generator)
    theirs = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02).get_velocity(x_0, noise, t)
    v = SCHEDULE[t].velocity(x_0, noise)
    torch.testing.assert_close(v, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(SCHEDULE[t].velocity(v, SCHEDULE[t].add_noise(x_0, noise)), x_0, rtol=1e-4, atol=1e-5)


def test_a_model_that_knows_v_has_no_loss_under_v_prediction(pairs, normalizer):
    noise = torch.randn(8, 12, generator=torch.Generator().manual_seed(5))

    def knows_v(x_t, timesteps, *others):
        return SCHEDULE[timesteps].velocity(normalizer.normalize(pairs.future_params), noise)

    assert loss_of(knows_v, pairs, normalizer, prediction_type="v_prediction") == 0
    assert loss_of(knows_v, pairs, normalizer) > 0.1


def test_tensor_weights_make_every_tensor_count_alike(pairs, normalizer):
    layout = ParameterLayout(("large", "small"), ((10,), (2,)))
    weights = tensor_weights(layout)
    assert weights.mean().item() == pytest.approx(1)
    assert [w.sum().item() for w in layout.unflatten(weights).values()] == pytest.approx([6, 6])

    def off_in_small(*inputs):
        return normalizer.normalize(pairs.future_params) + torch.tensor([0.0] * 10 + [1.0] * 2)

    assert loss_of(off_in_small, pairs, normalizer) == pytest.approx(2 / 12, rel=1e-5)
    assert loss_of(off_in_small, pairs, normalizer, param_weights=weights) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_the_behavioural_distance_compares_raw_networks_and_fades_with_noise(prediction_type, pairs, normalizer, abar):
    seen = []

    def off_by_one(x_t, timesteps, *others):
        x_0 = normalizer.normalize(pairs.future_params) + 1
        return x_0 if prediction_type == "sample" else SCHEDULE[timesteps].velocity(x_0, q_noise(x_0, x_t, timesteps))

    def q_noise(x_0, x_t, timesteps):  # the noise that makes x_t of this x_0
        a = abar[timesteps][:, None]
        return (x_t - a.sqrt() * x_0) / (1 - a).sqrt()

    def behaviour(params, others):
        seen.append((params, others))
        return torch.ones(8)

    options = {"prediction_type": prediction_type, "behaviour": behaviour}
    without = loss_of(off_by_one, pairs, normalizer, **options)
    assert seen == []  # a weight of 0 costs nothing
    loss = loss_of(off_by_one, pairs, normalizer, **options, behavioural_weight=3.0)
    (params, others) = seen[0]
    torch.testing.assert_close(params, pairs.future_params + 2, rtol=1e-3, atol=1e-3)  # one in x is 2 in raw parameters
    assert torch.equal(others, pairs.future_params)
    assert loss - without == pytest.approx(3 * abar[torch.arange(8) * 100].mean().item(), rel=1e-3)


def test_pairs_hold_starts_before_targets():
    pairs = CheckpointPairs.from_stacked(torch.arange(4.0)[:, None], torch.tensor([[10.0, 11], [12, 13]]).numpy())
    assert pairs.starting_params.flatten().tolist() == [0, 1]
    assert pairs.future_params.flatten().tolist() == [2, 3]
    assert pairs.starting_metric.tolist() == [10, 11]
    assert pairs.future_metric.tolist() == [12, 13]
    assert len(pairs.to(torch.device("cpu"))) == 2
