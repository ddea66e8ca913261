"""Policies of Stable-Baselines3: those that act as there are imported, all others refused in a sentence."""

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from rl_tasks.cartpole import CartPole
from rl_tasks.pendulum import Pendulum
from rl_tasks.stable_baselines import policy_params

sb3 = pytest.importorskip("stable_baselines3")
ARCH = {"net_arch": [32, 32]}


def extractor():
    """A features extractor of one's own that keeps the number of features, so that all shapes fit."""
    from stable_baselines3.common.torch_layers import FlattenExtractor

    class Doubling(FlattenExtractor):
        def forward(self, observations):
            return 2 * super().forward(observations)

    return Doubling


def ppo(environment="CartPole-v1", policy="MlpPolicy", **options):
    kwargs = ARCH | options.pop("policy_kwargs", {})
    return sb3.PPO(policy, environment, policy_kwargs=kwargs, seed=0, device="cpu", **options)


def behind_vec_normalize(norm_obs):
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    return ppo(VecNormalize(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]), norm_obs=norm_obs))


def own_policy():
    from stable_baselines3.common.policies import ActorCriticPolicy

    class Own(ActorCriticPolicy):
        pass

    return ppo(policy=Own)


class OtherBounds(gymnasium.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)

    def observation(self, observation):
        return np.clip(observation, -1, 1)


REFUSED = {
    "through a features extractor, Doubling": lambda: ppo(policy_kwargs={"features_extractor_class": extractor()}),
    "normalised by VecNormalize": lambda: behind_vec_normalize(norm_obs=True),
    "got PPO with Own": own_policy,
    "got DQN with DQNPolicy": lambda: sb3.DQN("MlpPolicy", "CartPole-v1", device="cpu", buffer_size=10),
    r"the model has \['Linear', 'ReLU'\]": lambda: ppo(policy_kwargs={"activation_fn": nn.ReLU}),
    r"another environment than 'CartPole-v1': its observation_space is Box\(-1.0, 1.0": lambda: ppo(
        OtherBounds(gymnasium.make("CartPole-v1"))
    ),
    r"does not fit task 'cartpole'.*train it with net_arch \[32, 32\]": lambda: ppo(
        policy_kwargs={"net_arch": [64, 64]}
    ),
    "another environment than 'CartPole-v1': its observation_space": lambda: ppo("Pendulum-v1"),
}
REFUSED_FOR_PENDULUM = {
    "state-dependent exploration": lambda: ppo("Pendulum-v1", use_sde=True),
    "got SAC with SACPolicy": lambda: sb3.SAC("MlpPolicy", "Pendulum-v1", device="cpu", buffer_size=10),
    "got TD3 with TD3Policy": lambda: sb3.TD3("MlpPolicy", "Pendulum-v1", device="cpu", buffer_size=10),
    "another environment than 'Pendulum-v1'": lambda: ppo("CartPole-v1"),
}


def test_policies_that_act_otherwise_are_refused(subtests):
    for task, cases in ((CartPole(), REFUSED), (Pendulum(), REFUSED_FOR_PENDULUM)):
        for message, make in cases.items():
            with subtests.test(message):
                with pytest.raises(ValueError, match=message) as caught:
                    policy_params(make(), task)
                assert "\n" not in str(caught.value)


def test_policies_that_act_as_they_do_there_are_taken():
    task = CartPole()
    a2c = sb3.A2C("MlpPolicy", "CartPole-v1", policy_kwargs=ARCH, device="cpu")
    for model in (
        ppo(),
        a2c,
        behind_vec_normalize(norm_obs=False),
        ppo(policy_kwargs={"share_features_extractor": False}),
    ):
        row = policy_params(model, task)
        seen = torch.randn(1, 200, 4, generator=torch.Generator().manual_seed(0))
        ours = task.act(task.layout.unflatten(row[None]), seen)[0]
        assert ours.tolist() == model.predict(seen[0].numpy(), deterministic=True)[0].tolist()
