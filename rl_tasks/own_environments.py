"""Environments of people's own: older interfaces, odd rewards, errors midway, luck that no seed decides."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.seeding import np_random

Environment = gymnasium.Env[Any, Any]
MAX_REWARD = 1e15  # its square is still a float32
PROBED_STEPS = 20


class LostPolicy(Exception):
    """Raised for a policy that cannot go on; its message is the reason."""


class PresentInterface(gymnasium.Wrapper[Any, Any, Any, Any]):
    """`reset(seed)` to (observation, info), `step` to five values, and rewards as floats, whatever is inside."""

    def __init__(self, env: Environment) -> None:
        super().__init__(env)
        takes = inspect.signature(env.reset).parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())
        self.takes = {name for name in ("seed", "options") if anything or name in takes}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; an environment that takes no seed is seeded by `seed()` or its `np_random`."""
        if seed is not None and "seed" not in self.takes:
            if callable(getattr(self.env, "seed", None)):
                self.env.seed(seed)  # type: ignore[attr-defined]
            else:
                self.env.unwrapped.np_random = np_random(seed)[0]
        given: dict[str, Any] = {"seed": seed, "options": options}
        started: Any = self.env.reset(**{name: given[name] for name in self.takes})
        if isinstance(started, tuple) and len(started) == 2 and isinstance(started[1], dict):
            return started
        return started, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take an action.

        Raises:
            ValueError: `step` gives neither four nor five values, or no number as reward.
        """
        given: Any = self.env.step(action)
        if isinstance(given, tuple) and len(given) == 4:  # before Gym 0.26: (..., done, info)
            observation, reward, done, info = given
            truncated = bool(info.get("TimeLimit.truncated", False))
            return observation, number(reward), bool(done) and not truncated, truncated, info
        if not isinstance(given, tuple) or len(given) != 5:
            what = f"{len(given)} values" if isinstance(given, tuple) else type(given).__name__
            raise ValueError(f"step must return (observation, reward, terminated, truncated, info), got {what}")
        observation, reward, terminated, truncated, info = given
        return observation, number(reward), bool(terminated), bool(truncated), info


def number(reward: Any) -> float:
    """A reward as a float: a number, or an array or tensor of one; else a ValueError."""
    try:
        if reward is None:
            raise TypeError("None is no number")  # numpy makes it NaN
        return float(np.asarray(reward, dtype=np.float64).reshape(()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"step must return one number as reward, got {reward!r:.80}") from error


def with_present_interface(environment: Environment) -> Environment:
    """The environment, with `PresentInterface` around what is not Gymnasium's own, inside of Gymnasium's wrappers."""
    outer, inner = None, environment
    while isinstance(inner, gymnasium.Wrapper) and type(inner).__module__.startswith("gymnasium."):
        outer, inner = inner, inner.env
    if type(inner).__module__.startswith("gymnasium."):
        return environment
    wrapped = PresentInterface(inner)
    if outer is None:
        return wrapped
    outer.env = wrapped
    return environment


def refused_reward(reward: float) -> str | None:
    """Why no policy can learn from a reward, or None."""
    return None if abs(reward) <= MAX_REWARD else f"reward {reward:g}"  # NaN compares as false


def broken(error: Exception) -> str:
    """An error of an environment as a reason for losing a run."""
    return f"its environment raised {type(error).__name__}: {str(error).partition(chr(10))[0]:.200}"


def probe(environment: Environment, name: str, size: int, action: Any) -> None:
    """Start an episode and take a step, to say in a sentence what does not work.

    Raises:
        ValueError: something raises, or an observation has another size than its space.
    """
    try:
        for seen in (environment.reset(seed=0)[0], environment.step(action)[0]):
            if np.asarray(seen, dtype=np.float32).size != size:
                raise ValueError(f"an observation has {np.asarray(seen).size} numbers, its space {size}")
    except Exception as error:
        raise ValueError(f"environment {name!r} cannot be played: {error}") from error


def warn_of_hidden_luck(make: Callable[[], Environment], name: str, actions: list[Any]) -> None:
    """Warn where two environments of one seed differ under the same actions."""
    played = []
    for _ in range(2):
        environment = make()
        try:
            events = [np.asarray(environment.reset(seed=0)[0], dtype=np.float64).ravel()]
            for step in range(PROBED_STEPS):
                seen, reward, terminated, truncated, _ = environment.step(actions[step % len(actions)])
                events.append(np.append(np.asarray(seen, dtype=np.float64).ravel(), float(reward)))
                if terminated or truncated:
                    break
        except Exception:  # an environment that raises is met in training
            return
        finally:
            environment.close()
        played.append(np.concatenate(events))
    if not np.array_equal(played[0], played[1], equal_nan=True):
        warnings.warn(
            f"environment {name!r} is not reproducible: with the same seed and actions it gave other observations or "
            "rewards, so that no harvest of it can be repeated; draw from self.np_random only",
            stacklevel=3,
        )
