"""An environment of one's own, and tasks of policies on such."""

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from g_pt.runtime.seeds import keyed_generator
from rl_tasks.ppo_config import PPOConfig
from rl_tasks.task import GymnasiumTask

SMALL = PPOConfig(num_envs=2, n_steps=8, n_epochs=1)


class Walk(gymnasium.Env):
    """A walk to the right, which is rewarded; the start comes from the seed."""

    observation_space = spaces.Box(-100, 100, (3,), dtype=np.float32)
    action_space = spaces.Discrete(2)
    before_step = staticmethod(lambda env: None)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.age = self.np_random.uniform(-1, 1), 0
        return self.observation(), {}

    def observation(self):
        return np.array([self.place, np.sin(self.place), 1.0], dtype=self.observation_space.dtype)

    def move(self, action):
        self.age += 1
        self.place += 0.1 * (2 * float(np.sum(action)) - 1)
        return self.observation(), self.reward(), False

    def reward(self):
        return float(self.place)

    def step(self, action):
        observation, reward, dead = self.move(action)
        return observation, reward, dead, False, {}


def policy_task(environment, make_network=None, **members):
    """A task of an environment class, with a small network."""
    name = f"Own{environment.__name__}-v0"
    gymnasium.register(name, environment, max_episode_steps=10)
    outputs = 2 if isinstance(environment.action_space, spaces.Discrete) else 2 * environment.action_space.shape[0]
    network = make_network or (lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs)))
    members = {"name": "own-policy", "environment_id": name, "network": lambda self: network()} | members
    episodes = {"train": 2, "validation": 2, "test": 2}
    return type("OwnPolicy", (GymnasiumTask,), {"episodes": episodes} | members)()


def trained(task, num=3, iterations=2):
    return task.train_population(num, [0, iterations], SMALL, keyed_generator(0), dtype=torch.float32)
