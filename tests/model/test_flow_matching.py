"""Flow matching as the objective: the noise, the loss, the sampler, and a training through both stages."""

from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny_training import TINY_ALIGNMENT, tiny_config, tiny_store, train, train_aligned

from g_pt.model.diffusion import MAX_SNR, Objective, diffusion_loss, snr_weights
from g_pt.model.noise import NoiseSchedule
from g_pt.model.normalization import ParameterNormalizer
from g_pt.model.pairs import CheckpointPairs
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.schedulers import FLOW, first_noise, make_scheduler, model_input, noise_schedule, set_sampling_timesteps
from g_pt.tasks import get_task

SCHEDULE = noise_schedule(prediction_type=FLOW)
STRAIGHT = NoiseSchedule.straight(1000)


@pytest.fixture
def pairs(generator):
    params = torch.randn(2, 8, 12, generator=generator)
    return CheckpointPairs(params[0], params[1], torch.ones(8), torch.ones(8))


def sample(predict_velocity, noise, num_steps, scheduler=None):
    scheduler = scheduler or make_scheduler("flow-euler", SCHEDULE)
    set_sampling_timesteps(scheduler, num_steps, torch.device("cpu"))
    x_t = first_noise(scheduler, noise)
    for t in scheduler.timesteps:
        x_t = scheduler.step(predict_velocity(model_input(scheduler, x_t, t), t), t, x_t).prev_sample
    return x_t


def test_noise_levels_and_noised_vectors_are_those_of_diffusers(generator):
    theirs = FlowMatchEulerDiscreteScheduler(1000)
    torch.testing.assert_close(STRAIGHT.sigma, theirs.sigmas.flip(0))
    x_0, noise = torch.randn(2, 64, 12, generator=generator)
    t = torch.randint(1000, (64,), generator=generator)
    wanted = theirs.scale_noise(x_0, theirs.timesteps.flip(0)[t], noise)
    torch.testing.assert_close(STRAIGHT[t].add_noise(x_0, noise), wanted)


def test_a_model_that_knows_the_velocity_has_no_loss_and_is_told_the_samplers_times(pairs):
    noise = torch.randn(8, 12, generator=torch.Generator().manual_seed(5))
    timesteps, seen = torch.tensor([0, 1, 100, 200, 500, 700, 998, 999]), []

    def knows(x_t, time, *others):
        seen.append((x_t, time))
        return noise - pairs.future_params

    loss = diffusion_loss(knows, ParameterNormalizer(12), pairs, timesteps, noise, STRAIGHT, Objective(FLOW))
    assert loss == 0
    (x_t, time) = seen[0]
    torch.testing.assert_close(
        x_t, pairs.future_params + (time / 1000)[:, None] * (noise - pairs.future_params), rtol=1e-4, atol=1e-5
    )
    theirs = FlowMatchEulerDiscreteScheduler(1000).timesteps
    assert set(time.tolist()) <= set(theirs.tolist())


def test_snr_weighs_the_error_of_x_0():
    """An x_0 that is off by one is a velocity that is off by 1 / sigma."""
    sigma = STRAIGHT.sigma
    weights = snr_weights(FLOW, STRAIGHT) / sigma.square()
    snr = (1 - sigma).square() / sigma.square()
    torch.testing.assert_close(weights, snr.clamp(max=MAX_SNR), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 20])
def test_a_model_that_knows_x_0_is_believed(num_steps, generator):
    x_0, noise = 4 * torch.randn(16, 50, generator=generator), torch.randn(16, 50, generator=generator)
    result = sample(lambda x_t, t: (x_t - x_0) / (t / 1000), noise, num_steps)
    torch.testing.assert_close(result, x_0, rtol=0, atol=1e-4)


def test_samples_of_a_gaussian_are_that_gaussian(generator):
    """For x_0 ~ N(3, 2²) the mean velocity at x_t is a known line, and its samples have mean 3 and deviation 2."""

    def mean_velocity(x_t, t):
        sigma = t / 1000
        x_0 = 3 + 4 * (1 - sigma) / (4 * (1 - sigma) ** 2 + sigma**2) * (x_t - 3 * (1 - sigma))
        return (x_t - x_0) / sigma

    result = sample(mean_velocity, torch.randn(200, 100, generator=generator), 100)
    assert result.mean().item() == pytest.approx(3, abs=0.05)
    assert result.std().item() == pytest.approx(2, rel=0.04)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_steps_are_of_equal_length_from_noise_to_x_0(num_steps):
    scheduler = make_scheduler("flow-euler", SCHEDULE)
    set_sampling_timesteps(scheduler, num_steps, torch.device("cpu"))
    torch.testing.assert_close(scheduler.sigmas, torch.linspace(1, 0, num_steps + 1))


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++", "DDPMScheduler"])
def test_samplers_of_diffusion_are_refused(name):
    with pytest.raises(ValueError, match="is of another process than the model, which was trained by flow matching"):
        make_scheduler(name, SCHEDULE)


@pytest.mark.parametrize("name", ["flow-euler", "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_a_diffusion_model_refuses_samplers_of_flow_matching(name):
    with pytest.raises(ValueError, match=r"is of another process than the model.*diffusion; take one of \['ddim'"):
        make_scheduler(name, noise_schedule())


def test_trained_saved_loaded_sampled_and_aligned(tmp_path):
    config = tiny_config(tmp_path / "flow", num_steps=40)
    config = replace(config, model=replace(config.model, prediction_type=FLOW))
    store = tiny_store(tmp_path / "checkpoints")
    pipeline = train(config, store)
    loaded = ParameterUpdatePipeline.from_pretrained(config.pipeline_folder)
    assert type(loaded.scheduler) is FlowMatchEulerDiscreteScheduler
    assert loaded.scheduler.config.prediction_type == FLOW
    starts = get_task("digits").init(4, torch.Generator().manual_seed(1))

    def update(pipeline):
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(starts, 0.5, num_inference_steps=3, generator=torch.Generator().manual_seed(0)).params

    assert torch.equal(update(loaded), update(pipeline))
    with pytest.raises(ValueError, match="flow matching"):
        loaded.set_scheduler("ddim")
    loaded.set_scheduler("flow-euler")
    assert torch.equal(update(loaded), update(pipeline))
    aligned = train_aligned(
        replace(config, output=tmp_path / "aligned", alignment=TINY_ALIGNMENT), store, config.pipeline_folder
    )
    assert not torch.equal(update(aligned), update(pipeline))
