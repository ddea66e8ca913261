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
from rl_tasks.own_environments import (
    Environment,
    LostPolicy,
    broken,
    probe,
    refused_reward,
    with_present_interface,
)


def make_environment(environment_id: str, options: Mapping[str, Any] | None = None) -> Environment:
    """Make an environment.

    Raises:
        ValueError: Gymnasium has none of this name, or a package that it needs is missing.
    """
    try:
        return with_present_interface(gymnasium.make(environment_id, **(options or {})))
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(
            f"environment {environment_id!r} needs a package that is not installed ({error}); for MuJoCo: "
            "pip install 'g-pt[mujoco]'"
        ) from error
    except Exception as error:  # its constructor is anyone's code
        raise ValueError(
            f"environment {environment_id!r} cannot be made: {error}. Names are those of gymnasium.make, such as "
            "'CartPole-v1'; one of your own is registered with gymnasium.register before"
        ) from error


@dataclass(frozen=True)
class EnvironmentFacts:
    """Facts of an environment that a policy needs.

    Attributes:
        observation_size: O; observations of more than one axis are flattened.
        distribution: of the actions, whose `num_outputs` a policy must return.
        bounds: lowest and highest action, (A,) each, for continuous actions.
        max_episode_steps: the time limit.
        whole_actions: the integer dtype of continuous actions that are whole numbers.
    """

    observation_size: int
    distribution: ActionDistribution
    bounds: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    max_episode_steps: int
    whole_actions: np.dtype[Any] | None = None

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
        bounds, whole = None, None
        if isinstance(action, spaces.Discrete) and action.start == 0:
            distribution: ActionDistribution = Categorical(int(action.n))
        elif isinstance(action, spaces.Box) and len(action.shape) == 1:
            distribution = Gaussian(action.shape[0])
            bounds = (action.low.astype(np.float32), action.high.astype(np.float32))
            whole = action.dtype if np.issubdtype(action.dtype, np.integer) else None
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
        facts = cls(int(np.prod(seen.shape)), distribution, bounds, int(limit), whole)
        probe(environment, name, facts.observation_size, facts.some_actions(1)[0])
        return facts

    def act(self, actions: Tensor) -> list[Any]:
        """Actions (n,) or (n, A) as `env.step` takes them, clipped to their bounds."""
        array = actions.numpy()
        if self.bounds is None:
            return [int(a) for a in array]
        clipped = np.clip(array.astype(np.float32), *self.bounds)
        return list(clipped if self.whole_actions is None else np.rint(clipped).astype(self.whole_actions))

    def some_actions(self, num: int) -> list[Any]:
        """Actions (num, ...) to try an environment with: each choice in turn, or small numbers of both signs."""
        if self.bounds is None:
            return self.act(torch.arange(num) % self.distribution.num_outputs)
        signs = 1 - 2 * (torch.arange(num) % 2)
        return self.act(0.1 * signs[:, None].expand(num, len(self.bounds[0])))


def observe(observation: Any) -> NDArray[np.float32]:
    """An observation as a vector (O,)."""
    return np.asarray(observation, dtype=np.float32).ravel()


class GymnasiumEnvironments(Environments):
    """One Gymnasium environment each, stepped in turn, as SyncVectorEnv does in its SAME_STEP mode.

    The e-th environment of every policy has the same seed. A policy whose environment raises, or gives a reward that
    nothing can be learned from, is lost: `lost` says why, and its environments stand still from then on.
    """

    def __init__(
        self, make: Callable[[], Environment], facts: EnvironmentFacts, num_policies: int, num_envs: int, seed: int
    ) -> None:
        self.facts, self.shape, self.seed = facts, (num_policies, num_envs), seed
        self.environments = [make() for _ in range(num_policies * num_envs)]
        self.lost: dict[int, str] = {}

    def reset(self) -> Tensor:
        """Start all episodes anew, with their seeds."""
        nothing = np.zeros(self.facts.observation_size, dtype=np.float32)
        self.seen = [nothing] * len(self.environments)
        for i in range(len(self.environments)):
            self._try(self._restart, i, self.seed + i % self.shape[1])
        return self._tensor(self.seen)

    def step(self, actions: Tensor) -> Transition:
        """Take an action in every environment."""
        reached, rewards = list(self.seen), np.zeros(len(self.seen), dtype=np.float32)
        terminated, truncated = (np.zeros(len(self.seen), dtype=bool) for _ in range(2))

        def advance(i: int, action: Any) -> None:
            observation, reward, dead, late, _ = self.environments[i].step(action)
            if (reason := refused_reward(float(reward))) is not None:
                raise LostPolicy(reason)
            reached[i] = self.seen[i] = observe(observation)
            rewards[i], terminated[i], truncated[i] = float(reward), bool(dead), bool(late)
            if dead or late:
                self._restart(i)

        for i, action in enumerate(self.facts.act(actions.flatten(0, 1))):
            self._try(advance, i, action)
        flags = (torch.from_numpy(values).view(self.shape) for values in (rewards, terminated, truncated))
        return Transition(self._tensor(reached), self._tensor(self.seen), *flags)

    def _restart(self, i: int, seed: int | None = None) -> None:
        started = self.environments[i].reset() if seed is None else self.environments[i].reset(seed=seed)
        self.seen[i] = observe(started[0])

    def _try(self, play: Callable[[int, Any], None], i: int, value: Any) -> None:
        """Play in the i-th environment unless its policy is lost; what is raised loses it."""
        policy = i // self.shape[1]
        if policy not in self.lost:
            try:
                play(i, value)
            except Exception as error:  # an environment is anyone's code
                self.lost[policy] = str(error) if isinstance(error, LostPolicy) else broken(error)

    def _tensor(self, observations: list[NDArray[np.float32]]) -> Tensor:
        return torch.from_numpy(np.stack(observations)).view(*self.shape, -1)
