"""Policies that people bring: of tuples, with memory, frozen parts and BatchNorm; what is not trained stays."""

import gymnasium
import pytest
import torch
from torch import nn
from walks import Walk, policy_task, trained

from g_pt.model.sampling import finish_updates
from g_pt.runtime.seeds import keyed_generator
from g_pt.testing import check_task


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.envs.registration.registry))


class ActorCritic(nn.Module):
    """Logits and a value, as one tuple."""

    def __init__(self, value_first=False):
        super().__init__()
        self.body, self.actor, self.critic = nn.Linear(3, 5), nn.Linear(5, 2), nn.Linear(5, 1)
        self.value_first = value_first

    def forward(self, x):
        hidden = self.body(x).tanh()
        parts = self.actor(hidden), self.critic(hidden)
        return parts[::-1] if self.value_first else parts


class Memory(nn.Module):
    """Reads the numbers of an observation one after the other."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.rnn(x[..., None])[0][:, -1])


class Scaled(nn.Module):
    """Input normalisation as buffers, and a first layer that is frozen."""

    def __init__(self):
        super().__init__()
        self.register_buffer("obs_mean", torch.tensor([0.1, 0.2, 0.3]))
        self.register_buffer("obs_std", torch.tensor([1.0, 2.0, 3.0]))
        self.first, self.last = nn.Linear(3, 5).requires_grad_(False), nn.Linear(5, 2)

    def forward(self, x):
        return self.last(self.first((x - self.obs_mean) / self.obs_std).tanh())


POLICIES = {
    "actor and critic": (ActorCritic, ()),
    "critic and actor": (lambda: ActorCritic(value_first=True), ()),
    "GRU": (Memory, ()),
    "float64": (lambda: nn.Linear(3, 2).double(), ()),
    "DataParallel": (lambda: nn.DataParallel(nn.Linear(3, 2)), ()),
    "BatchNorm": (
        lambda: nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)),
        ("1.running_mean", "1.running_var"),
    ),
    "frozen": (Scaled, ("obs_mean", "obs_std", "first.weight", "first.bias")),
}


def test_policies_of_all_kinds_are_trained_and_what_is_not_trained_stays(subtests):
    for name, (make_network, constant) in POLICIES.items():
        with subtests.test(name):
            task = policy_task(Walk, make_network)
            check_task(task)
            assert task.constant_names == constant
            ends = task.layout.unflatten(trained(task, iterations=3).params)
            for tensor in task.layout.names:
                moved = not torch.equal(ends[tensor][:, 0], ends[tensor][:, 1])
                assert moved == (tensor not in constant and not tensor.startswith("critic")), tensor
            starts = task.init(2, keyed_generator(1))
            updated = task.layout.unflatten(finish_updates(task, starts + 0.1, starts))
            for tensor, before in task.layout.unflatten(starts).items():
                assert torch.equal(updated[tensor], before) == (tensor in constant)


REFUSED = {
    r"must return 2 numbers per observation .* got \(2, 3\), \(2, 1\) for 2": lambda: Pair(),
    r"'1' of a policy normalises over the observations of a batch": lambda: nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)
    ),
    r"must take observations \(N, 3\)": lambda: nn.Embedding(3, 2),
}


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x):
        return self.a(x), self.b(x)


def test_policies_that_cannot_act_are_refused(subtests):
    for message, make_network in REFUSED.items():
        with subtests.test(message), pytest.raises(ValueError, match=message):
            trained(policy_task(Walk, make_network))


def test_a_policy_acts_with_its_own_frozen_tensors_while_it_learns(monkeypatch):
    task, seen = policy_task(Walk, Scaled), []
    forward = type(task).forward

    def noting(self, tensors, observations):
        seen.append({name: tensor.detach().clone() for name, tensor in tensors.items()})
        return forward(self, tensors, observations)

    monkeypatch.setattr(type(task), "forward", noting)
    starts = task.layout.unflatten(trained(task).params[:, 0])
    assert len(seen) > 10
    for tensors in seen:
        for name in task.constant_names:
            assert torch.equal(tensors[name], starts[name])
