"""First-order optimizers against torch.optim, network by network, and in the table of promises."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from g_pt.testing import check_optimizer
from g_pt.update_rules.first_order import SGD, Adam, AdamW, Momentum, Nesterov, RMSprop
from rl_tasks.ppo import ADAM

MOMENTUM, LEARNING_RATE, NUM_STEPS = 0.9, 0.03, 20
RATES = [0.001, 0.003, 0.01, 0.03, 0.09]  # one per network


OPTIMIZERS = {
    "nesterov": lambda weight_decay: Nesterov(MOMENTUM, weight_decay),
    "sgd": lambda weight_decay: SGD(MOMENTUM, weight_decay),
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": lambda weight_decay: RMSprop(MOMENTUM, weight_decay),
}


@pytest.mark.parametrize(
    "optimizer",
    [SGD(), Momentum(), Nesterov(weight_decay=0.1), Adam(0.1), AdamW(), RMSprop(), RMSprop(0.9, 0.1), ADAM],
    ids=repr,
)
def test_an_optimizer_keeps_its_promises(optimizer):
    check_optimizer(optimizer)


def torch_optimizer(name: str, params: list[torch.Tensor], weight_decay: float) -> torch.optim.Optimizer:
    if name == "rmsprop":
        return torch.optim.RMSprop(params, LEARNING_RATE, weight_decay=weight_decay, momentum=MOMENTUM)
    if name in ("nesterov", "sgd"):
        nesterov = name == "nesterov"
        return torch.optim.SGD(params, LEARNING_RATE, MOMENTUM, weight_decay=weight_decay, nesterov=nesterov)
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return make(params, LEARNING_RATE, weight_decay=weight_decay)


def loss(params: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (torch.tanh(params) * target + 0.1 * (params - target) ** 4).sum()


def falling(rate, step: int):
    return rate * (1 - step / NUM_STEPS)


def stacked_path(
    name: str, start: torch.Tensor, target: torch.Tensor, weight_decay: float, rate=LEARNING_RATE
) -> torch.Tensor:
    optimizer, params, path = OPTIMIZERS[name](weight_decay), {"x": start.clone()}, []
    state = optimizer.init(params)
    for step in range(NUM_STEPS):
        leaf = params["x"].clone().requires_grad_(True)
        (grads,) = torch.autograd.grad(loss(leaf, target), leaf)
        params, state = optimizer.update(params, {"x": grads}, torch.zeros(5), state, falling(rate, step))
        path.append(params["x"].clone())
    return torch.stack(path, dim=1)


def single_path(
    name: str, start: torch.Tensor, target: torch.Tensor, weight_decay: float, rate=LEARNING_RATE
) -> torch.Tensor:
    params, path = start.clone().requires_grad_(True), []
    optimizer = torch_optimizer(name, [params], weight_decay)
    for step in range(NUM_STEPS):
        optimizer.param_groups[0]["lr"] = falling(rate, step)
        optimizer.zero_grad()
        loss(params, target).backward()
        optimizer.step()
        path.append(params.detach().clone())
    return torch.stack(path)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_stacked_runs_equal_torch_optim_one_by_one(name, weight_decay):
    generator = torch.Generator().manual_seed(0)
    start, target = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)  # 5 networks of 7 parameters
    stacked = stacked_path(name, start, target, weight_decay)
    assert (stacked[:, -1] - start).abs().max() > 0.01  # it moved
    for i in range(len(start)):
        expected = single_path(name, start[i], target[i], weight_decay)
        torch.testing.assert_close(stacked[i], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_each_network_follows_its_own_learning_rate(name, weight_decay):
    generator = torch.Generator().manual_seed(0)
    start, target = torch.randn(2, 5, 2, 3, generator=generator, dtype=torch.float64)  # a matrix per network
    start[1:], target[1:] = start[0].clone(), target[0].clone()  # networks differ in their rates only
    rates = torch.tensor(RATES, dtype=torch.float64)
    stacked = stacked_path(name, start, target, weight_decay, rates)
    assert all((a - b).abs().max() > 1e-3 for a, b in pairwise(stacked[:, -1]))
    for i, rate in enumerate(RATES):
        expected = single_path(name, start[i].flatten(), target[i].flatten(), weight_decay, rate)
        torch.testing.assert_close(stacked[i].flatten(1), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_one_rate_for_all_and_the_same_rate_for_each_agree(name):
    start, target = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = stacked_path(name, start, target, 0.1, torch.full((5,), LEARNING_RATE, dtype=torch.float64))
    torch.testing.assert_close(ours, stacked_path(name, start, target, 0.1), rtol=0, atol=1e-12)


def test_rmsprop_without_momentum_equals_torch():
    start, target = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = start.clone(), start.clone().requires_grad_(True)
    stacked, params = RMSprop(weight_decay=0.1), {"x": ours}
    state = stacked.init(params)
    single = torch.optim.RMSprop([theirs], LEARNING_RATE, weight_decay=0.1)
    for _ in range(NUM_STEPS):
        theirs.grad = torch.sin(theirs.detach() * target)
        grads = {"x": torch.sin(params["x"] * target)}
        params, state = stacked.update(params, grads, torch.zeros(5), state, LEARNING_RATE)
        single.step()
    torch.testing.assert_close(params["x"], theirs.detach(), rtol=0, atol=1e-10)


def test_the_optimizers_and_weight_decay_take_different_ways():
    start, target = torch.ones(2, 3), torch.zeros(2, 3)
    ends = [stacked_path(name, start, target, 0.1)[:, -1] for name in sorted(OPTIMIZERS)]
    ends += [stacked_path(name, start, target, 0.0)[:, -1] for name in ("nesterov", "sgd", "adamw", "rmsprop")]
    for i, end in enumerate(ends):
        assert all((end - other).abs().max() > 1e-5 for other in ends[i + 1 :])


@pytest.mark.parametrize("settings", [{"momentum": -0.1}, {"weight_decay": float("nan")}])
@pytest.mark.parametrize("kind", [SGD, Nesterov, RMSprop])
def test_impossible_settings_are_refused_by_name(kind, settings):
    [(name, value)] = settings.items()
    with pytest.raises(ValueError, match=f"{name} must not be negative, got {value}"):
        kind(**settings)
