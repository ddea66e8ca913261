"""Whole episodes of many policies: every episode counts to its end, whenever that is.

B = policies, E = episodes of each, O = size of an observation, S = of a state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl_tasks.gymnasium_environments import EnvironmentFacts, observe
from rl_tasks.own_environments import Environment, LostPolicy, broken, refused_reward
from rl_tasks.simulators import Simulator

# tensors of B policies and their observations (B, E, O) to actions (B, E) or (B, E, A)
Act = Callable[[Mapping[str, Tensor], Tensor], Tensor]
SHRINK_EVERY = 16  # steps after which policies without a living episode are dropped from the program


@torch.no_grad()
def simulated_returns(
    simulator: Simulator, act: Act, tensors: Mapping[str, Tensor], starts: Tensor, max_episode_steps: int
) -> Tensor:
    """Undiscounted returns of B policies on the same E episodes, as one tensor program: (B, E) float64.

    Args:
        simulator: of the environment.
        act: the policies.
        tensors: `{name: (B, *shape)}`, raw.
        starts: (E, S).
        max_episode_steps: the time limit.
    """
    num_policies = len(next(iter(tensors.values())))
    returns = torch.zeros(num_policies, len(starts), dtype=torch.float64)
    rows = torch.arange(num_policies)  # policies still in the program
    states = starts.expand(num_policies, -1, -1)
    alive = torch.ones(num_policies, len(starts), dtype=torch.bool)
    gained = torch.zeros_like(returns)
    for step in range(max_episode_steps):
        states, rewards, terminated = simulator.step(states, act(tensors, simulator.observe(states)))
        gained += rewards * alive
        alive &= ~terminated
        # what has ended moves on in name only; fallen poles would spin ever faster, and sines of such angles are slow
        states = states.masked_fill(~alive[..., None], 0.0)
        if (step + 1) % SHRINK_EVERY:
            continue
        living = alive.any(dim=1)
        if living.sum() < 0.8 * len(rows):
            returns[rows] = gained
            rows, states, alive, gained = rows[living], states[living], alive[living], gained[living]
            tensors = {name: tensor[living] for name, tensor in tensors.items()}
            if not len(rows):
                return returns
    returns[rows] = gained
    return returns


def differentiable_returns(
    simulator: Simulator, act: Act, tensors: Mapping[str, Tensor], starts: Tensor, max_episode_steps: int
) -> Tensor:
    """As `simulated_returns`, in float32 and differentiable in the tensors, of a simulator that has a gradient.

    The gradient of a reward reaches back to the last multiple of `gradient_horizon` steps only (truncated
    backpropagation through time): through whole episodes that of a policy which nearly balances is chaotic, some
    are a thousand times as long as others, and they say little about the next step (Metz et al. 2021, "Gradients
    are not all you need").
    """
    assert simulator.gradient_horizon is not None
    num_policies = len(next(iter(tensors.values())))
    states = starts.float().expand(num_policies, -1, -1)
    returns = states.new_zeros(num_policies, len(starts))
    alive = torch.ones_like(returns, dtype=torch.bool)
    for step in range(max_episode_steps):
        if step % simulator.gradient_horizon == 0:
            states = states.detach()
        states, rewards, terminated = simulator.step(states, act(tensors, simulator.observe(states)))
        returns = returns + rewards * alive
        alive = alive & ~terminated
        states = states.masked_fill(~alive[..., None], 0.0)
    return returns


@torch.no_grad()
def gymnasium_returns(
    environments: Sequence[Environment],
    facts: EnvironmentFacts,
    act: Act,
    tensors: Mapping[str, Tensor],
    seeds: Sequence[int],
    lost: dict[int, str],
) -> Tensor:
    """Undiscounted returns of B policies on the E episodes of these seeds, in Gymnasium itself: (B, E) float64.

    A policy whose environment raises or gives a reward that is none, such as NaN, has the return NaN.

    Args:
        environments: B x E of them.
        facts: of the environment.
        act: the policies.
        tensors: `{name: (B, *shape)}`, raw.
        seeds: of the E episodes, the same for every policy.
        lost: gets `{policy: reason}` of those policies.
    """
    num_episodes = len(seeds)
    num_policies = len(environments) // num_episodes
    seen = np.zeros((len(environments), facts.observation_size), dtype=np.float32)
    returns, alive = np.zeros(len(environments)), np.ones(len(environments), dtype=bool)

    def play(place: int, action: Any = None) -> None:
        """Take an action, or none to start, unless the policy is lost; what is raised loses it."""
        try:
            if action is None:
                seen[place] = observe(environments[place].reset(seed=seeds[place % num_episodes])[0])
                return
            observation, reward, terminated, truncated, _ = environments[place].step(action)
            if (reason := refused_reward(float(reward))) is not None:
                raise LostPolicy(reason)
            seen[place] = observe(observation)
            returns[place] += float(reward)
            alive[place] = not (terminated or truncated)
        except Exception as error:  # an environment is anyone's code
            policy = place // num_episodes
            lost[policy] = str(error) if isinstance(error, LostPolicy) else broken(error)
            returns[policy * num_episodes : (policy + 1) * num_episodes] = np.nan
            alive[policy * num_episodes : (policy + 1) * num_episodes] = False

    for place in range(len(environments)):
        if alive[place]:
            play(place)
    while alive.any():
        policies = np.flatnonzero(alive.reshape(num_policies, num_episodes).any(axis=1))
        wanted = {name: tensor[policies] for name, tensor in tensors.items()}
        observations = torch.from_numpy(seen.reshape(num_policies, num_episodes, -1)[policies])
        actions = facts.act(act(wanted, observations).flatten(0, 1))
        places = (policies[:, None] * num_episodes + np.arange(num_episodes)).ravel()
        for place, action in zip(places.tolist(), actions, strict=True):
            if alive[place]:
                play(place, action)
    return torch.from_numpy(returns).view(num_policies, num_episodes)


@torch.no_grad()
def episode_observations(
    environment: Environment, facts: EnvironmentFacts, act: Act, tensors: Mapping[str, Tensor], seed: int
) -> Tensor:
    """Observations (T, O) of one policy, stacked as `{name: (1, *shape)}`, from the start of an episode to its end."""
    seen, _ = environment.reset(seed=seed)
    observations, ended = [torch.from_numpy(observe(seen))], False
    while not ended:
        actions = act(tensors, observations[-1][None, None])  # (1, 1, ...)
        seen, _, terminated, truncated, _ = environment.step(facts.act(actions[:, 0])[0])
        ended = terminated or truncated
        observations.append(torch.from_numpy(observe(seen)))
    return torch.stack(observations)
