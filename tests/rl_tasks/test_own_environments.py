"""Environments that people bring: they are served, lose a run with its reason, or one sentence says no."""

import re
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from walks import SMALL, Walk, policy_task, trained

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.harvest import harvest
from checkpoints_dataset.store import CheckpointStore
from g_pt.testing import check_task
from rl_tasks.policies import GaussianHead
from rl_tasks.task import GymnasiumTask


class OldStep(Walk):
    def step(self, action):
        observation, reward, dead = self.move(action)
        return observation, reward, dead or self.age > 7, {}


class OldReset(OldStep):
    def reset(self):
        self.place, self.age = self.np_random.uniform(-1, 1), 0
        return self.observation()


class OldSeed(OldReset):
    """Seeded by a method, as before Gym 0.26."""

    def seed(self, seed=None):
        self.luck = np.random.default_rng(seed)

    def reset(self):
        self.place, self.age = self.luck.uniform(-1, 1), 0
        return self.observation()


class ArrayReward(Walk):
    def reward(self):
        return np.array([self.place], dtype=np.float32)


class TensorReward(Walk):
    def reward(self):
        return torch.tensor(self.place)


class WholeObservations(Walk):
    observation_space = spaces.Box(-100, 100, (3,), dtype=np.int64)


class WholeActions(Walk):
    action_space = spaces.Box(-2, 2, (2,), dtype=np.int32)

    def step(self, action):
        assert action.dtype == np.int32, action
        assert self.action_space.contains(action)
        return super().step(action)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.envs.registration.registry))


@pytest.mark.filterwarnings("ignore:.*")  # of Gymnasium, about old interfaces and kinds of numbers
def test_environments_of_all_kinds_are_served(subtests):
    kinds = [Walk, OldStep, OldReset, OldSeed, ArrayReward, TensorReward, WholeObservations, WholeActions]
    plain = None
    for kind in kinds:
        with subtests.test(kind.__name__):
            task = policy_task(kind)
            check_task(task)
            first, again = trained(task), trained(task)
            assert not first.lost
            assert torch.equal(first.params, again.params)
            assert (first.params[:, 0] != first.params[:, 1]).any(dim=1).all()
            if kind in (Walk, ArrayReward, TensorReward):
                plain = first.params if plain is None else plain
                torch.testing.assert_close(first.params, plain)


def test_an_old_environment_ends_and_is_cut_off_as_it_says():
    class CutOff(OldStep):
        def step(self, action):
            observation, reward, dead, _ = super().step(action)
            return observation, reward, dead, {"TimeLimit.truncated": dead}

    for kind, wanted in ((OldStep, (True, False)), (CutOff, (False, True))):
        env = policy_task(kind).make_environment()
        env.reset(seed=0)
        flags = [env.step(0)[2:4] for _ in range(8)]
        assert flags[:7] == [(False, False)] * 7
        assert flags[7] == wanted


class NoReward(Walk):
    def reward(self):
        return None


class ManyRewards(Walk):
    def reward(self):
        return np.zeros(2)


class ThreeValues(Walk):
    def step(self, action):
        return self.move(action)


class Raising(Walk):
    def reset(self, *, seed=None, options=None):
        raise OSError("no robot")


class WrongSize(Walk):
    def observation(self):
        return np.zeros(4, dtype=np.float32)


class NotMade(Walk):
    def __init__(self):
        raise OSError("no display")


class NoEnvironment:
    action_space = spaces.Discrete(2)


UNPLAYABLE = {
    NoReward: r"'OwnNoReward-v0' cannot be played: step must return one number as reward, got None",
    ManyRewards: r"cannot be played: step must return one number as reward, got array",
    ThreeValues: r"cannot be played: step must return \(observation, .*, got 3 values",
    Raising: r"cannot be played: no robot",
    WrongSize: r"cannot be played: ",
    NotMade: r"'OwnNotMade-v0' cannot be made: no display",
    NoEnvironment: r"'OwnNoEnvironment-v0' cannot be made: ",
}


@pytest.mark.filterwarnings("ignore:.*")
def test_environments_that_cannot_be_played_are_refused_before_anything_is_trained(subtests):
    for kind, message in UNPLAYABLE.items():
        with subtests.test(kind.__name__), pytest.raises(ValueError, match=message):
            trained(policy_task(kind))


class Fragile(Walk):
    """Breaks for policies that go left all the time."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place *= 0.1
        return self.observation(), {}

    def move(self, action):
        if self.place < -0.3:
            self.fail()
        return super().move(action)

    def fail(self):
        raise RuntimeError("the robot fell")


class Undefined(Fragile):
    def fail(self):
        self.place = np.nan

    def observation(self):
        return np.nan_to_num(super().observation())


class Infinite(Fragile):
    def fail(self):
        self.place = 1e30

    def observation(self):
        return np.clip(super().observation(), -100, 100)


class Sided(nn.Module):
    """Goes to the side that its one parameter says, with hidden units of no use beside it."""

    def __init__(self):
        super().__init__()
        self.side, self.rest = nn.Parameter(20 * torch.randn(1).sign()), nn.Linear(3, 2)

    def forward(self, x):
        return self.rest(x) * 0.01 + torch.cat([-self.side, self.side]).expand(len(x), 2)


BREAKING = {
    Fragile: r"^its environment raised RuntimeError: the robot fell$",
    Undefined: r"^reward nan$",
    Infinite: r"^reward 1e\+30$",
}


@pytest.mark.filterwarnings("ignore:.*")
def test_an_environment_that_fails_midway_loses_that_run_alone_and_says_why(subtests):
    for kind, message in BREAKING.items():
        with subtests.test(kind.__name__):
            task = policy_task(kind, Sided)
            population = trained(task, num=8)
            right = {i for i in range(8) if population.params[i, 0, task.layout.slices["side"]] > 0}
            assert 0 < len(right) < 8
            assert set(population.lost) == set(range(8)) - right
            assert all(re.search(message, reason) for reason in population.lost.values())
            kept = sorted(right)
            assert population.params[kept].isfinite().all()
            assert population.metrics["return"][kept].isfinite().all()


class FragileTask(GymnasiumTask):
    name = "fragile"
    environment_id = "OwnFragile-v0"
    episodes = {"train": 2, "validation": 2, "test": 2}  # noqa: RUF012

    def network(self):
        return Sided()


def test_a_harvest_goes_on_without_the_runs_that_were_lost(tmp_path, monkeypatch):
    policy_task(Fragile)  # registers the environment
    monkeypatch.setattr("checkpoints_dataset.harvest.get_task", lambda _: FragileTask())
    config = HarvestConfig(
        task="fragile", num_runs=8, num_steps=2, num_checkpoints=2, runs_per_shard=4, max_abs_param=99, ppo=SMALL
    )
    left_out = harvest(config, tmp_path)
    store = CheckpointStore(tmp_path)
    assert 0 < len(left_out) < 8
    assert len(store.runs) == 8 - len(left_out)
    assert store.left_out == left_out
    assert set(left_out.values()) == {"its environment raised RuntimeError: the robot fell"}


class Hidden(Walk):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place += np.random.rand()  # noqa: NPY002
        return self.observation(), {}


class HiddenReward(Walk):
    def reward(self):
        return self.place + torch.rand(()).item()


def test_luck_that_no_seed_decides_is_warned_of(subtests):
    for kind in (Hidden, HiddenReward):
        with subtests.test(kind.__name__), pytest.warns(UserWarning, match="not reproducible.*self.np_random"):
            trained(policy_task(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(policy_task(Walk))


def test_whole_numbers_are_what_an_environment_of_whole_numbers_gets():
    task = policy_task(WholeActions, lambda: nn.Sequential(nn.Linear(3, 2), GaussianHead(2)))
    actions = task.facts.act(torch.tensor([[0.4, 0.6], [-9.0, 1.5]]))
    assert [a.tolist() for a in actions] == [[0, 1], [-2, 2]]
    assert actions[0].dtype == np.int32
