"""Policies as tasks: returns are those of Gymnasium, every split has episodes of its own."""

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks import get_task
from rl_tasks.cartpole import CartPole
from rl_tasks.pendulum import Pendulum
from rl_tasks.policies import GaussianHead
from rl_tasks.task import FIRST_SEEDS, GymnasiumTask

BALANCING = torch.tensor([[0.1, 0.5, 5.0, 1.5]])


def balancing_policies(num: int, noise: float) -> torch.Tensor:
    """CartPole policies that balance more or less: the last layer compares what the first ones pass on."""
    task = CartPole()
    tensors = {n: t.zero_() for n, t in task.layout.unflatten(task.init(num, keyed_generator(0))).items()}
    tensors["fc1.weight"][:, :1] = 0.1 * BALANCING
    tensors["fc2.weight"][:, 0, 0] = 1.0
    tensors["fc3.weight"][:, 1, 0] = 1.0
    params = task.layout.flatten(tensors)
    return params + noise * torch.randn(params.shape, generator=keyed_generator(1))


def one_by_one(task: GymnasiumTask, row: torch.Tensor, seeds: list[int]) -> list[float]:
    """Returns of one policy, with `network()` and one environment."""
    module = task.network()
    module.load_state_dict(task.layout.unflatten(row))
    returns = []
    for seed in seeds:
        env = gymnasium.make(task.environment_id)
        seen, _ = env.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            with torch.no_grad():
                out = module(torch.from_numpy(np.asarray(seen))[None])[0]
            action = out.argmax().item() if task.facts.bounds is None else np.clip(out[:1].numpy(), -2, 2)
            seen, reward, dead, late, _ = env.step(action)
            total, ended = total + float(reward), dead or late
        returns.append(total)
    return returns


def test_returns_in_the_simulator_in_gymnasium_and_one_by_one_are_the_same():
    task, params = CartPole(), balancing_policies(4, noise=0.02)
    seeds = [FIRST_SEEDS["validation"] + i for i in range(5)]
    simulated = task.simulated_returns(params, task.simulator.seeded_starts(seeds))
    vectorised = task.gymnasium_returns(params, seeds)
    general = GymnasiumTask.gymnasium_returns(task, params, seeds)
    assert simulated.tolist() == vectorised.tolist() == general.tolist()
    assert len(set(simulated.flatten().tolist())) > 3  # neither all fall at once nor all balance
    for row, returns in zip(params, vectorised, strict=True):
        assert returns.tolist() == one_by_one(task, row, seeds)


def test_returns_of_a_gaussian_policy_are_those_of_gymnasium():
    task = Pendulum()
    params = task.init(3, keyed_generator(0)) * 3
    seeds = [5, 6]
    simulated = task.simulated_returns(params, task.simulator.seeded_starts(seeds))
    real = task.gymnasium_returns(params, seeds)
    torch.testing.assert_close(simulated, real, rtol=1e-3, atol=0)
    np.testing.assert_allclose(real[1].numpy(), one_by_one(task, params[1], seeds), rtol=1e-3)


def test_the_network_is_what_is_run_and_the_layout_has_the_standard_deviation():
    for task in (CartPole(), Pendulum()):
        params = task.init(3, keyed_generator(0))
        seen = torch.randn(3, 6, task.facts.observation_size, generator=keyed_generator(1))
        together = task.forward(task.layout.unflatten(params), seen)
        torch.testing.assert_close(GymnasiumTask.forward(task, task.layout.unflatten(params), seen), together)
    assert task.layout.names[-1] == "gaussian.log_std"
    assert CartPole().layout.num_params == 1282


def test_an_evaluation_is_the_mean_over_the_episodes_of_the_split_and_says_how_exact_it_is():
    task, params = CartPole(), balancing_policies(3, noise=0.03)
    for split in ("train", "validation", "test"):
        returns = task.episode_returns(params, split)
        assert returns.shape == (3, task.episodes[split])
        assert task.evaluate(params, split)["return"].tolist() == pytest.approx(returns.mean(1).tolist())
    assert task.measurement(params)["standard_error"]["return"] == pytest.approx(
        (returns.std(dim=1) / 32**0.5).mean().item()
    )
    assert task.measurement(params)["simulator"] == "gymnasium"
    assert task.measurement(params, "validation")["simulator"] == "CartPoleSimulator"


def test_fresh_episodes_are_the_same_for_all_networks_of_a_call():
    task, params = CartPole(), balancing_policies(2, noise=0.0)
    first, again, other = (task.sampled_metric("return", params * 0, 4, keyed_generator(s)) for s in (0, 0, 1))
    assert first.tolist() == again.tolist()
    assert first[0] == first[1]
    assert first.tolist() != other.tolist()
    with pytest.raises(ValueError, match=r"has no metric 'loss'"):
        task.sampled_metric("loss", params, 4, keyed_generator(0))


class Own(GymnasiumTask):
    """What a user writes: an environment without a simulator and a module of their own."""

    name = "own-mountain-car"
    environment_id = "MountainCarContinuous-v0"
    episodes = {"train": 1, "validation": 2, "test": 2}  # noqa: RUF012

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1), GaussianHead(1))


def test_an_environment_and_a_module_of_ones_own():
    task = Own()
    params = task.init(2, keyed_generator(0))
    returns = task.gymnasium_returns(params, [3])
    assert returns.shape == (2, 1)
    assert returns[1].item() == pytest.approx(one_by_one_continuous(task, params[1], 3), rel=1e-4)
    assert task.permutations.axes["0.weight"] == ("0.units", None)
    assert task.sampled_metric("return", params, 2, keyed_generator(0)).shape == (2,)


def one_by_one_continuous(task: GymnasiumTask, row: torch.Tensor, seed: int) -> float:
    module, env = task.network(), gymnasium.make(task.environment_id)
    module.load_state_dict(task.layout.unflatten(row))
    seen, _ = env.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        with torch.no_grad():
            action = module(torch.from_numpy(seen)[None])[0, :1].clamp(-1, 1).numpy()
        seen, reward, dead, late, _ = env.step(action)
        total, ended = total + float(reward), dead or late
    return total


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"environment_id": "CartPole-v7"}, r"'CartPole-v7' cannot be made: .*gymnasium.make"),
        ({"environment_id": "FrozenLake-v1"}, r"observations of 'FrozenLake-v1' must be a Box"),
        ({"environment_id": "Acrobot-v1"}, r"must take observations \(N, 6\) of 'Acrobot-v1'"),
        ({"environment_id": "MountainCar-v0"}, r"must return 3 numbers per observation for Categorical.* got \(2, 2\)"),
    ],
)
def test_what_cannot_be_served_is_refused(attributes, message):
    task = type("Wrong", (Own,), attributes)()
    with pytest.raises(ValueError, match=message):
        task.evaluate(task.init(1, keyed_generator(0)), "test")


def test_an_action_space_that_no_policy_here_serves_is_refused():
    class Matrix(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    gymnasium.register("Matrix-v0", Matrix, max_episode_steps=5)
    with pytest.raises(ValueError, match=r"must be Discrete .* or a Box with one axis, got MultiDiscrete"):
        _ = type("Wrong", (Own,), {"environment_id": "Matrix-v0"})().facts


def test_parameters_of_another_length_and_unknown_splits_are_refused():
    task = get_task("cartpole")
    with pytest.raises(ValueError, match=r"takes \(batch, 1282\), got \(2, 5\)"):
        task.evaluate(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="split must be one of"):
        task.evaluate(torch.zeros(2, 1282), "nothing")  # type: ignore[arg-type]
