"""LARS and LAMB against pytorch-optimizer, network by network, and their trust ratios in closed form."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from g_pt.tasks.quadratics import Quadratics
from g_pt.testing import check_optimizer
from g_pt.update_rules.gradient import SGDRule
from g_pt.update_rules.layerwise import LAMB, LARS
from g_pt.update_rules.problem import follow

NUM_STEPS = 15


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"weight": (3, 4, 5), "kernel": (3, 2, 3, 2, 2), "bias": (3, 4)}
    return {n: torch.randn(shape, generator=generator, dtype=torch.float64) for n, shape in shapes.items()}


def slope(tensor: torch.Tensor, step: int) -> torch.Tensor:
    return torch.sin(3 * tensor + step)


def train(optimizer, rate, starts=None, num_steps: int = NUM_STEPS) -> dict[str, torch.Tensor]:
    params = {name: tensor.clone() for name, tensor in (starts or tensors()).items()}
    state = optimizer.init(params)
    for step in range(num_steps):
        grads = {name: slope(tensor, step) for name, tensor in params.items()}
        params, state = optimizer.update(params, grads, torch.zeros(3), state, rate)
    return params


@pytest.mark.parametrize("optimizer", [LARS(), LARS(0.0, 0.1), LAMB(), LAMB(0.1)], ids=repr)
def test_an_optimizer_keeps_its_promises(optimizer) -> None:
    check_optimizer(optimizer)


def test_networks_train_as_pytorch_optimizer_trains_each_alone(subtests) -> None:
    theirs = pytest.importorskip("pytorch_optimizer")
    cases = {  # the oracle adds eps to the length of LAMB's step, too
        "LARS": (LARS(0.9, 0.1), 2.0, lambda p: theirs.LARS(p, 2.0, weight_decay=0.1)),
        "LARS without momentum": (LARS(0.0), 2.0, lambda p: theirs.LARS(p, 2.0, momentum=0.0)),
        "LAMB": (LAMB(eps=1e-12), 0.1, lambda p: theirs.Lamb(p, 0.1, eps=1e-12, adam_debias=True)),
    }
    for name, (ours, rate, make) in cases.items():
        ends = train(ours, rate)
        for i in range(3):
            params = {n: tensor[i].clone().requires_grad_() for n, tensor in tensors().items()}
            optimizer = make(list(params.values()))
            for step in range(NUM_STEPS):
                for tensor in params.values():
                    tensor.grad = slope(tensor.detach(), step)
                optimizer.step()
            for n, tensor in params.items():
                with subtests.test(optimizer=name, tensor=n):
                    torch.testing.assert_close(ends[n][i], tensor.detach(), rtol=1e-7, atol=1e-7)


def test_a_step_is_as_long_as_the_weights_say(subtests) -> None:
    starts, rates = tensors(), torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    for optimizer, share in ((LARS(0.0), 1e-3), (LAMB(), 1.0)):
        ends = train(optimizer, rates, num_steps=1)
        for name in ("weight", "kernel"):
            moved = (ends[name] - starts[name]).flatten(1).norm(dim=1)
            with subtests.test(optimizer=str(optimizer), tensor=name):
                wanted = rates * share * starts[name].flatten(1).norm(dim=1)
                torch.testing.assert_close(moved, wanted, rtol=1e-10, atol=0)
    bias = train(LARS(0.0), rates, num_steps=1)["bias"]
    torch.testing.assert_close(bias, starts["bias"] - rates[:, None] * slope(starts["bias"], 0))  # biases as they are
    long = {name: 100 * tensor for name, tensor in starts.items()}
    moved = (train(LAMB(longest=3.0), 0.5, long, num_steps=1)["weight"] - long["weight"]).flatten(1).norm(dim=1)
    torch.testing.assert_close(moved, torch.full_like(moved, 1.5))
    still = {name: torch.zeros_like(tensor) for name, tensor in starts.items()}
    assert train(LAMB(), 0.1, still, num_steps=1)["weight"].isfinite().all()  # a length of 0 has no ratio


def test_decay_of_lamb_is_part_of_the_step_whose_length_is_set() -> None:
    """Algorithm 2 of You et al. 2020, written down again."""
    optimizer, starts = LAMB(0.3), tensors()
    mean = square = 0
    point = starts["weight"][1].clone()
    for step in range(NUM_STEPS):
        grad = slope(point, step)
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
        r = mean / (1 - 0.9 ** (step + 1)) / ((square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-6) + 0.3 * point
        point = point - 0.05 * min(point.norm().item(), 10.0) / r.norm() * r
    torch.testing.assert_close(train(optimizer, 0.05)["weight"][1], point, rtol=1e-10, atol=0)


def test_rates_follow_the_batch_size_and_rise_before_they_fall() -> None:
    task = Quadratics()
    starts = task.init(2, torch.Generator().manual_seed(0))

    def end(batch_size: int = 16, **settings) -> torch.Tensor:
        rule = SGDRule(schedule="constant", **settings)
        path = follow(rule, task, starts, torch.Generator().manual_seed(1), batch_size=batch_size, steps=[4])
        return next(path)[0]

    for scaling, factor in (("linear", 0.5), ("square-root", 0.5**0.5)):
        scaled = end(learning_rate=0.2, batch_scaling=scaling, scaled_from=32)
        torch.testing.assert_close(scaled, end(learning_rate=0.2 * factor))
    torch.testing.assert_close(end(128, learning_rate=0.2, batch_scaling="linear"), end(128, learning_rate=0.4))
    all_there_are = end(10**6, learning_rate=1e-3, batch_scaling="linear", scaled_from=500)
    torch.testing.assert_close(all_there_are, end(10**6, learning_rate=2e-3))  # 1,000 examples
    rule = SGDRule(schedule="linear", warm_up_steps=2)
    assert [rule.factor(step, 6) for step in range(7)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert [dataclasses.replace(rule, schedule="constant").factor(step, None) for step in range(4)] == [0.5, 1, 1, 1]
    with pytest.raises(ValueError, match="warm_up_steps must be at least 1, got 0"):
        SGDRule(warm_up_steps=0)
