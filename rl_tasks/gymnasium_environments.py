"""Gymnasium environments: made by name, described, stepped by many policies.

B = policies, E = environments of each, O = size of an observation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rl_tasks.distributions import ActionDistribution, Categorical, Gaussian
from rl_tasks.environments import Environments, Transition

Environment = gymnasium.Env[Any, Any]


def make_environment(environment_id: str, options: Mapping[str, Any] | None = None) -> Environment:
    """Make an environment.

    Raises:
        ValueError: Gymnasium has none of this name, or a package that it needs is missing.
    """
    try:
        return gymnasium.make(environment_id, **(options or {}))
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(
            f"environment {environment_id!r} needs a package that is not installed ({error}); for MuJoCo: "
            "pip install 'g-pt[mujoco]'"
        ) from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ValueError(
            f"environment {environment_id!r} cannot be made: {error}. Names are those of gymnasium.make, such as "
            "'CartPole-v1'; one of your own is registered with gymnasium.register before"
        ) from error


@dataclass(frozen=True)
class EnvironmentFacts:
    """What a policy has to know of an environment.

    Attributes:
        observation_size: O; observations of more than one axis are flattened.
        distribution: of the actions, whose `num_outputs` a policy must return.
        bounds: lowest and highest action, (A,) each, for continuous actions.
        max_episode_steps: the time limit.
    """

    observation_size: int
    distribution: ActionDistribution
    bounds: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    max_episode_steps: int

    @classmethod
    def of(cls, environment: Environment, name: str) -> EnvironmentFacts:
        """Read them off; `name` is for errors.

        Raises:
            ValueError: observations are no array of numbers, actions neither n choices nor a vector, or there is no
                time limit.
        """
        seen, action = environment.observation_space, environment.action_space
        if not isinstance(seen, spaces.Box):
            raise ValueError(
                f"observations of {name!r} must be a Box (an array of numbers), got {seen}: wrap the environment, as "
                "by gymnasium.wrappers.FlattenObservation"
            )
        bounds = None
        if isinstance(action, spaces.Discrete) and action.start == 0:
            distribution: ActionDistribution = Categorical(int(action.n))
        elif isinstance(action, spaces.Box) and len(action.shape) == 1:
            distribution = Gaussian(action.shape[0])
            bounds = (action.low.astype(np.float32), action.high.astype(np.float32))
        else:
            raise ValueError(
                f"actions of {name!r} must be Discrete (from 0) or a Box with one axis, got {action}: a policy here "
                "chooses one of n actions or a vector of numbers"
            )
        limit = environment.spec.max_episode_steps if environment.spec is not None else None
        if limit is None:
            raise ValueError(
                f"{name!r} has no time limit, so that an episode might never end: register it with max_episode_steps"
            )
        return cls(int(np.prod(seen.shape)), distribution, bounds, int(limit))

    def act(self, actions: Tensor) -> list[Any]:
        """Actions (n,) or (n, A) as `env.step` takes them, clipped to their bounds."""
        array = actions.numpy()
        if self.bounds is None:
            return [int(a) for a in array]
        return list(np.clip(array.astype(np.float32), *self.bounds))


def observe(observation: Any) -> NDArray[np.float32]:
    """An observation as a vector (O,)."""
    return np.asarray(observation, dtype=np.float32).ravel()


class GymnasiumEnvironments(Environments):
    """One Gymnasium environment each, stepped in turn, as SyncVectorEnv does in its SAME_STEP mode.

    The e-th environment of every policy has the same seed.
    """

    def __init__(
        self, make: Callable[[], Environment], facts: EnvironmentFacts, num_policies: int, num_envs: int, seed: int
    ) -> None:
        self.facts, self.shape, self.seed = facts, (num_policies, num_envs), seed
        self.environments = [make() for _ in range(num_policies * num_envs)]

    def reset(self) -> Tensor:
        """Start all episodes anew, with their seeds."""
        seeds = [self.seed + i % self.shape[1] for i in range(len(self.environments))]
        return self._tensor(
            [observe(env.reset(seed=seed)[0]) for env, seed in zip(self.environments, seeds, strict=True)]
        )

    def step(self, actions: Tensor) -> Transition:
        """Take an action in every environment."""
        reached, observations, rewards, terminated, truncated = [], [], [], [], []
        for env, action in zip(self.environments, self.facts.act(actions.flatten(0, 1)), strict=True):
            observation, reward, dead, late, _ = env.step(action)
            reached.append(observe(observation))
            observations.append(observe(env.reset()[0]) if dead or late else reached[-1])
            rewards.append(float(reward))
            terminated.append(bool(dead))
            truncated.append(bool(late))
        return Transition(
            self._tensor(reached),
            self._tensor(observations),
            torch.tensor(rewards).view(self.shape),
            torch.tensor(terminated).view(self.shape),
            torch.tensor(truncated).view(self.shape),
        )

    def _tensor(self, observations: list[NDArray[np.float32]]) -> Tensor:
        return torch.from_numpy(np.stack(observations)).view(*self.shape, -1)
