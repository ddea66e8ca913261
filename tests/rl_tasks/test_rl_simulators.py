"""Batched simulators against Gymnasium itself, step by step, over random actions."""

import gymnasium
import numpy as np
import pytest
import torch

from rl_tasks.acrobot import AcrobotSimulator
from rl_tasks.cartpole import CartPoleSimulator
from rl_tasks.environments import SimulatedEnvironments
from rl_tasks.pendulum import PendulumSimulator

SIMULATORS = {
    "CartPole-v1": (CartPoleSimulator(), 500),
    "Acrobot-v1": (AcrobotSimulator(), 500),
    "Pendulum-v1": (PendulumSimulator(), 200),
}


def random_actions(env_id: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    if env_id == "Pendulum-v1":  # past the bounds too
        return torch.from_numpy(draw.uniform(-2.5, 2.5, (*shape, 1)).astype(np.float32))
    choices = {"CartPole-v1": 2, "Acrobot-v1": 3}[env_id]
    return torch.from_numpy(draw.integers(choices, size=shape))


def balancing(seen: np.ndarray) -> int:
    """A controller that keeps the pole up to the time limit."""
    return int(seen @ np.array([0.1, 0.5, 5.0, 1.5]) > 0)


def gymnasium_action(env_id: str, action: torch.Tensor) -> object:
    return action.numpy() if env_id == "Pendulum-v1" else int(action)


@pytest.mark.parametrize("env_id", SIMULATORS)
def test_every_step_of_an_episode_is_that_of_gymnasium(env_id):
    simulator, limit = SIMULATORS[env_id]
    seeds = range(6)
    actions = random_actions(env_id, (limit, len(seeds)), seed=0)
    states = simulator.seeded_starts(seeds)
    alive = torch.ones(len(seeds), dtype=torch.bool)
    envs = [gymnasium.make(env_id) for _ in seeds]
    for env, seed, state in zip(envs, seeds, states, strict=True):
        seen, _ = env.reset(seed=seed)
        assert np.array_equal(seen, simulator.observe(state).numpy())
    for step in range(limit):
        states, rewards, terminated = simulator.step(states, actions[step])
        for i, env in enumerate(envs):
            if not alive[i]:
                continue
            seen, reward, dead, late, _ = env.step(gymnasium_action(env_id, actions[step, i]))
            np.testing.assert_allclose(states[i].numpy(), env.unwrapped.state, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(simulator.observe(states[i]).numpy(), seen, rtol=1e-6, atol=1e-6)
            assert rewards[i].item() == pytest.approx(float(reward), rel=1e-6, abs=1e-6)
            assert bool(terminated[i]) == dead
            assert late == (step + 1 == limit)
            alive[i] = not (dead or late)
        if not alive.any():
            break
    assert not alive.any()


def test_cartpole_is_cut_off_at_the_limit_as_gymnasium_does_and_the_next_episode_starts():
    environments = SimulatedEnvironments(CartPoleSimulator(), 1, 3, 500, torch.Generator().manual_seed(0))
    seen = environments.reset()
    env = gymnasium.make("CartPole-v1")
    env.reset(seed=0)
    env.unwrapped.state = environments.states[0, 1].numpy().copy()
    for step in range(500):
        action = torch.tensor([[balancing(s) for s in seen[0].numpy()]])
        transition = environments.step(action)
        theirs, reward, dead, late, _ = env.step(int(action[0, 1]))
        np.testing.assert_allclose(transition.reached[0, 1].numpy(), theirs, rtol=1e-6, atol=1e-7)
        assert (transition.rewards[0, 1].item(), bool(transition.terminated[0, 1])) == (reward, dead)
        assert bool(transition.truncated[0, 1]) == late
        seen = transition.observations
        if step < 499:
            assert torch.equal(transition.reached[0, 1], seen[0, 1])
    assert late
    assert not dead
    assert seen[0, 1].abs().max() <= 0.05
    assert environments.age[0, 1] == 0


def test_many_policies_and_episodes_at_once_move_as_one_alone():
    simulator = CartPoleSimulator()
    states = simulator.starts(5, torch.Generator().manual_seed(1)).expand(7, -1, -1)
    actions = random_actions("CartPole-v1", (7, 5), seed=3)
    after, _, _ = simulator.step(states, actions)
    for b, e in [(0, 0), (6, 4), (3, 2)]:
        assert torch.equal(simulator.step(states[b, e], actions[b, e])[0], after[b, e])


def test_random_starts_fill_their_bounds():
    for simulator, _ in SIMULATORS.values():
        starts = simulator.starts(2000, torch.Generator().manual_seed(0))
        bounds = torch.tensor(simulator.start_bounds, dtype=torch.float64)
        assert (starts.abs() <= bounds + 1e-8).all()
        torch.testing.assert_close(starts.abs().amax(0), bounds, rtol=0.01, atol=0)
        torch.testing.assert_close(
            starts.mean(0) / bounds, torch.zeros(len(bounds), dtype=torch.float64), atol=0.05, rtol=0
        )
