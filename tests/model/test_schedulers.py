import diffusers
import pytest
import torch

from g_pt.model.noise import NoiseSchedule
from g_pt.model.schedulers import (
    REFUSED,
    SCHEDULERS,
    first_noise,
    make_scheduler,
    model_input,
    noise_schedule,
    set_sampling_timesteps,
)

NAMES = sorted(SCHEDULERS)
# what a model was trained with, and what must therefore survive every swap
KEPT = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type", "timestep_spacing")


def sample(scheduler, predict_x_0, shape, num_steps, generator):
    torch.manual_seed(0)  # ddpm draws noise in every step
    set_sampling_timesteps(scheduler, num_steps, torch.device("cpu"))
    x_t = first_noise(scheduler, torch.randn(shape, generator=generator))
    for t in scheduler.timesteps:
        x_t = scheduler.step(predict_x_0(model_input(scheduler, x_t, t), t), t, x_t).prev_sample
    return x_t


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_knows_x_0_is_believed(name, generator):
    x_0 = 4 * torch.randn(16, 50, generator=generator)
    assert x_0.abs().max() > 6  # where clipping would show
    for num_steps in (1, 5, 20):
        result = sample(make_scheduler(name, noise_schedule()), lambda x_t, t: x_0, x_0.shape, num_steps, generator)
        torch.testing.assert_close(result, x_0, rtol=0, atol=1e-4, msg=lambda text, n=num_steps: f"{n} steps: {text}")


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_a_gaussian_are_that_gaussian(name, generator):
    """For x_0 ~ N(3, 2^2) the best prediction is a known line in x_t, and its samples have mean 3 and deviation 2."""
    abar = NoiseSchedule.linear(1000, 1e-4, 0.02).alpha.square()

    def posterior_mean(x_t, t):
        a = abar[t.long()]
        return 3 + 4 * a.sqrt() / (4 * a + 1 - a) * (x_t - a.sqrt() * 3)

    result = sample(make_scheduler(name, noise_schedule()), posterior_mean, (200, 100), 100, generator)
    assert result.mean().item() == pytest.approx(3, abs=0.1)  # pure noise instead of x_999 costs 0.04
    assert result.std().item() == pytest.approx(2, rel=0.04)


@pytest.mark.parametrize("name", NAMES)
def test_sampling_starts_at_the_last_diffusion_time(name):
    for num_steps in (1, 2, 5, 20):
        scheduler = make_scheduler(name, noise_schedule())
        scheduler.set_timesteps(num_steps)
        assert scheduler.timesteps[0] == 999, num_steps
        assert len(scheduler.timesteps) == (2 * num_steps - 1 if name == "heun" else num_steps)
        gaps = scheduler.timesteps.diff()
        assert (gaps <= 0 if name == "heun" else gaps < 0).all(), num_steps


@pytest.mark.parametrize("name", NAMES)
def test_the_noise_is_that_of_the_training(name):
    scheduler = make_scheduler(name, noise_schedule(500, 1e-3, 0.05))
    torch.testing.assert_close(
        scheduler.alphas_cumprod, NoiseSchedule.linear(500, 1e-3, 0.05).alpha.square(), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("after", NAMES)
def test_a_scheduler_made_from_another_equals_one_made_directly(after):
    schedule = noise_schedule(500, 1e-3, 0.05)

    def sampled(scheduler):
        return sample(scheduler, lambda x_t, t: 0.9 * x_t, (2, 50), 5, torch.Generator().manual_seed(0))

    direct = sampled(make_scheduler(after, schedule))
    for before in [name for name in NAMES if name != after]:
        swapped = make_scheduler(after, dict(make_scheduler(before, schedule).config))
        for key in (*KEPT, "clip_sample"):
            assert swapped.config[key] == schedule[key], f"{key} after {before}"
        assert torch.equal(sampled(swapped), direct), f"after {before}"


def test_an_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match=r"must be one of \['ddim', 'ddpm', .*'unipc'\], got 'cosine'"):
        make_scheduler("cosine", noise_schedule())


def test_a_class_of_diffusers_may_be_named_instead():
    assert type(make_scheduler("UniPCMultistepScheduler", noise_schedule())).__name__ == "UniPCMultistepScheduler"


def test_what_cannot_sample_these_models_is_refused_with_the_reason(subtests):
    for name in sorted(REFUSED):
        with (
            subtests.test(name),
            pytest.raises(ValueError, match=f"{name} cannot sample this model: it .*; take one of"),
        ):
            make_scheduler(name, noise_schedule())


@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "SASolverScheduler"])
def test_two_are_refused_because_they_miss_what_the_model_knows(name, generator):
    """Measured, not copied: with a later diffusers that hits x_0 they can be offered."""
    x_0 = 4 * torch.randn(16, 50, generator=generator)
    scheduler = getattr(diffusers, name).from_config(noise_schedule())
    result = sample(scheduler, lambda x_t, t: x_0, x_0.shape, 20, generator)
    assert (result - x_0).abs().max() > 0.01
