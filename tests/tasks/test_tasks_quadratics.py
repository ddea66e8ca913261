"""Quadratics: the losses are what they say, and rules converge on them at the rates that theory gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from g_pt.tasks.quadratics import Quadratics
from g_pt.testing import check_task
from g_pt.update_rules.base import Optimizer
from g_pt.update_rules.first_order import SGD, Adam, Momentum
from g_pt.update_rules.gradient import GradientRule
from g_pt.update_rules.problem import follow

KAPPA = 100.0
SPECTRUM = torch.logspace(-2, 0, 10, dtype=torch.float64).tolist()


def distances(optimizer: Optimizer, rate: float, steps: list[int]) -> Tensor:
    """Largest distance of three points from the minimum after each number of steps, without noise, in float64."""
    task = Quadratics(SPECTRUM, noise=0.0)
    starts = task.init(3, torch.Generator().manual_seed(0)).double()
    rule = GradientRule(optimizer, rate, schedule="constant")
    path = follow(rule, task, starts, torch.Generator(), steps=steps, batch_size=1)
    return torch.stack([(params - task.minimum).norm(dim=1).max() for params, _ in path])


def test_it_keeps_the_promises_of_a_task() -> None:
    check_task(Quadratics())


def test_losses_and_gradients_are_those_of_the_formula() -> None:
    task = Quadratics([0.5, 2.0, 3.0], noise=0.3, num_examples=20)
    assert torch.linalg.eigvalsh(task.matrix).tolist() == pytest.approx([0.5, 2.0, 3.0])
    torch.testing.assert_close(task.targets["train"].mean(dim=0), task.minimum)
    point, some = (
        torch.randn(1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
        torch.tensor([3, 7]),
    )
    point.requires_grad_()
    loss = task.training_losses({"point": point}, some)
    wanted = [0.5 * (point[0] - t) @ task.matrix @ (point[0] - t) for t in task.targets["train"][some]]
    torch.testing.assert_close(loss[0], torch.stack(wanted).mean())
    (grad,) = torch.autograd.grad(loss.sum(), point)
    torch.testing.assert_close(grad[0], task.matrix @ (point[0] - task.targets["train"][some].mean(dim=0)))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_spectra_that_are_not_positive_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="eigenvalues of a quadratic must be positive"):
        Quadratics([1.0, value])


def test_gradient_descent_contracts_by_kappa_minus_1_over_kappa_plus_1() -> None:
    # at the best constant rate, 2 / (largest + smallest eigenvalue)
    early, late = distances(SGD(), 2 / (1 + 1 / KAPPA), [300, 400])
    assert (late / early).item() ** (1 / 100) == pytest.approx((KAPPA - 1) / (KAPPA + 1), rel=1e-4)


def test_the_heavy_ball_contracts_by_the_same_of_the_root_of_kappa() -> None:
    # Polyak 1964: rate 4 / (sqrt L + sqrt mu)^2, momentum ((sqrt kappa - 1) / (sqrt kappa + 1))^2
    wanted = (math.sqrt(KAPPA) - 1) / (math.sqrt(KAPPA) + 1)
    early, late = distances(Momentum(wanted**2), 4 / (1 + 1 / math.sqrt(KAPPA)) ** 2, [60, 120])
    # both outermost directions have a double root: distances fall as t wanted^t
    assert (late / early / 2).item() ** (1 / 60) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_noise_keeps_sgd_at_its_stationary_variance(rate: float) -> None:
    task, batch_size, spectrum = (
        Quadratics([0.5, 0.8, 1.0, 1.5], noise=1.0, num_examples=20_000),
        4,
        [0.5, 0.8, 1.0, 1.5],
    )
    starts, steps = task.minimum[None].clone(), range(100, 4100)
    path = follow(
        GradientRule(SGD(), rate, schedule="constant"), task, starts, torch.Generator().manual_seed(0),
        batch_size=batch_size, steps=steps,
    )  # fmt: skip
    points = torch.cat([params for params, _ in path]) - task.minimum  # (steps, 4)
    found = (points @ task.directions).square().mean(dim=0)
    curvature = torch.tensor(spectrum, dtype=torch.float64)
    # v = (1 - rate h)^2 v + rate^2 (noise h)^2 / batch
    wanted = rate * curvature / (batch_size * (2 - rate * curvature))
    torch.testing.assert_close(found, wanted, rtol=0.12, atol=0)


def test_the_first_step_of_adam_is_the_sign_of_the_gradient() -> None:
    task = Quadratics(noise=0.0)
    starts = task.init(5, torch.Generator().manual_seed(0)).double()
    rule = GradientRule(Adam(), 0.01, schedule="constant")
    [(params, _)] = follow(rule, task, starts, torch.Generator(), steps=[1])
    gradients = (starts - task.minimum) @ task.matrix
    torch.testing.assert_close(params - starts, -0.01 * gradients.sign(), rtol=1e-4, atol=0)
