"""Population PPO: its estimates against plain loops, its policies independent of each other, its returns rising."""

from dataclasses import replace

import pytest
import torch
from torch import distributions

from g_pt.runtime.seeds import keyed_generator
from rl_tasks.cartpole import CartPole
from rl_tasks.distributions import Categorical, Gaussian
from rl_tasks.pendulum import Pendulum
from rl_tasks.policies import Tanh
from rl_tasks.ppo import estimate_advantages
from rl_tasks.ppo_config import PPOConfig

SMALL = PPOConfig(num_envs=2, n_steps=16, n_epochs=2)


def plain_advantage(rewards, values, next_values, terminated, truncated, gamma, lam, t):
    """Eq. 16 of Schulman et al. 2016 as a sum: discounted errors until the episode ends."""
    total, weight = 0.0, 1.0
    for k in range(t, len(rewards)):
        bootstrap = 0.0 if terminated[k] else next_values[k]
        total += weight * (rewards[k] + gamma * bootstrap - values[k])
        if terminated[k] or truncated[k]:
            break
        weight *= gamma * lam
    return total


def test_advantages_are_those_of_a_plain_loop_with_death_and_time_limit(generator):
    shape = (3, 20, 2)
    rewards, values, next_values = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    terminated, truncated = (torch.rand(shape, generator=generator) < 0.15 for _ in range(2))
    ours = estimate_advantages(rewards, values, next_values, terminated, truncated, 0.9, 0.8)
    for b in range(3):
        for e in range(2):
            columns = [t[b, :, e].tolist() for t in (rewards, values, next_values, terminated, truncated)]
            for t in range(20):
                assert ours[b, t, e].item() == pytest.approx(plain_advantage(*columns, 0.9, 0.8, t), abs=1e-12)


def test_a_time_limit_bootstraps_the_value_and_death_does_not():
    reward, value, after = torch.ones(1, 1, 1), torch.zeros(1, 1, 1), torch.full((1, 1, 1), 10.0)
    yes, no = torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 1, dtype=torch.bool)
    assert estimate_advantages(reward, value, after, yes, no, 0.5, 1.0).item() == 1
    assert estimate_advantages(reward, value, after, no, yes, 0.5, 1.0).item() == 6


@pytest.mark.parametrize("task", [CartPole(), Pendulum()], ids=lambda task: task.name)
def test_a_policy_ends_the_same_whichever_others_are_trained_beside_it(task):
    params = task.init(5, keyed_generator(0))
    rates = torch.tensor([1e-3, 2e-3, 3e-3, 4e-3, 5e-3])
    together = task.make_ppo(params, SMALL, keyed_generator(1))
    critics = {name: tensor.detach().clone() for name, tensor in together.critic_tensors.items()}
    for _ in range(3):
        together.iterate(rates)
    for i in (0, 3):
        alone = task.make_ppo(params[i : i + 1], SMALL, keyed_generator(1))
        for name, tensor in alone.critic_tensors.items():  # a critic's init is a draw of its own
            tensor.data.copy_(critics[name][i : i + 1])
        alone.generator.set_state(after_init(task, 5).get_state())
        alone.observations = alone.environments.reset()
        for _ in range(3):
            alone.iterate(rates[i : i + 1])
        for name, tensor in alone.policy_tensors.items():
            torch.testing.assert_close(tensor[0], together.policy_tensors[name][i], rtol=1e-3, atol=1e-4)
            assert not torch.allclose(tensor[0], together.policy_tensors[name][i - 1], rtol=1e-3, atol=1e-3)


def after_init(task, num: int) -> torch.Generator:
    """The generator of `make_ppo` for so many policies, before the environments are reset."""
    generator = keyed_generator(1)
    ppo = task.make_ppo(task.init(num, keyed_generator(0)), SMALL, generator)
    generator = keyed_generator(1)
    critics = sum(tensor[0].numel() for tensor in ppo.critic_tensors.values())
    torch.rand(num, critics, generator=generator)
    return generator


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_distributions_are_those_of_torch(kind, generator):
    outputs = torch.randn(4, 7, 6, generator=generator)
    if kind == "categorical":
        ours, theirs = Categorical(6), distributions.Categorical(logits=outputs)
        actions = theirs.sample()
        wanted, entropy, mode = theirs.log_prob(actions), theirs.entropy(), outputs.argmax(-1)
    else:
        mean, log_std = outputs.chunk(2, dim=-1)
        ours, theirs = Gaussian(3), distributions.Normal(mean, log_std.exp())
        actions = theirs.sample()
        wanted, entropy, mode = theirs.log_prob(actions).sum(-1), theirs.entropy().sum(-1), mean
    torch.testing.assert_close(ours.log_prob(outputs, actions), wanted)
    torch.testing.assert_close(ours.entropy(outputs), entropy)
    torch.testing.assert_close(ours.mode(outputs), mode)
    assert ours.num_outputs == 6


def test_samples_have_the_frequencies_of_the_distribution(generator):
    outputs = torch.tensor([0.0, 1.0, -1.0]).expand(20_000, 3)
    actions = Categorical(3).sample(outputs, Categorical(3).noise((20_000,), generator))
    torch.testing.assert_close(actions.bincount() / 20_000, outputs[0].softmax(0), atol=0.015, rtol=0)
    outputs = torch.tensor([2.0, -0.5]).expand(20_000, 2)
    actions = Gaussian(1).sample(outputs, Gaussian(1).noise((20_000,), generator))
    assert actions.mean().item() == pytest.approx(2.0, abs=0.02)
    assert actions.std().item() == pytest.approx(0.6065, abs=0.02)


def test_tanh_and_its_gradient(generator):
    x = (5 * torch.randn(1000, generator=generator)).requires_grad_()
    ours, theirs = Tanh.apply(x), x.tanh()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-7)
    grads = [torch.autograd.grad(y.square().sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_returns_rise_and_are_measured_on_the_checkpoints_that_are_kept():
    task = CartPole()
    settings = PPOConfig(learning_rate_range=(3e-3, 5e-3))
    counted = []
    trained = task.train_population(8, [0, 4, 12], settings, keyed_generator(0), progress=counted.append)
    returns = trained.metrics["return"]
    assert returns.shape == (8, 3)
    assert returns[:, 2].mean() > 3 * returns[:, 0].mean()
    assert sum(counted) == 8 * 12
    assert trained.params.dtype == torch.float16
    again = task.evaluate(trained.params[:, 1].float(), "validation")["return"]
    assert again.tolist() == returns[:, 1].tolist()
    assert all(3e-3 <= record["learning_rate"] <= 5e-3 for record in trained.records)


def test_gradients_of_each_policy_are_clipped_to_their_own_norm():
    task = CartPole()
    ppo = task.make_ppo(task.init(2, keyed_generator(0)), SMALL, keyed_generator(1))
    grads = {name: torch.full_like(t, 1.0) for name, t in ppo.trained.items()}
    for grad in grads.values():
        grad[1] *= 1e-4  # below the limit: stays
    ppo.descend(grads, torch.zeros(2), torch.ones(2))
    means = ppo.state.mean.values()  # 0.1 gradients
    norms = torch.stack([(10 * m).flatten(1).square().sum(1) for m in means]).sum(0).sqrt()
    number = sum(t[0].numel() for t in ppo.trained.values())
    torch.testing.assert_close(norms, torch.tensor([0.5, 1e-4 * number**0.5]), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_steps": 0}, "n_steps must be at least 1, got 0"),
        ({"gamma": 1.1}, "gamma must lie between 0 and 1"),
        ({"clip_range": 0.0}, "clip_range must be positive"),
        ({"ent_coef": -0.1}, "ent_coef must not be negative"),
        ({"learning_rate_range": (0.1, 0.01)}, "the smaller first"),
        ({"num_minibatches": 3}, "must divide num_envs . n_steps = 256"),
    ],
)
def test_impossible_settings_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(PPOConfig(), **change)
