"""Lookahead against its inner rule, pytorch-optimizer, and the variance of the noisy quadratic in closed form."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from g_pt.tasks.quadratics import Quadratics
from g_pt.update_rules.first_order import Momentum
from g_pt.update_rules.gradient import AdamRule, GradientRule, SGDRule
from g_pt.update_rules.lookahead import Lookahead
from g_pt.update_rules.problem import follow
from g_pt.update_rules.registry import rule_settings

TASK = Quadratics()
STARTS = TASK.init(3, torch.Generator().manual_seed(0)).double()
ADAM = AdamRule(learning_rate=0.03, schedule="constant")


def path(rule, num_steps: int = 12) -> list[torch.Tensor]:
    return [params for params, _ in islice(follow(rule, TASK, STARTS, torch.Generator().manual_seed(1)), num_steps)]


def test_alpha_1_is_the_inner_rule_and_0_stays(subtests) -> None:
    inner = path(ADAM)
    for every in (1, 5):
        with subtests.test(every=every):
            assert all(map(torch.equal, path(Lookahead(ADAM, alpha=1.0, every=every)), inner))
            assert torch.equal(path(Lookahead(ADAM, alpha=0.0, every=every), 10)[-1], STARTS)
    half = path(Lookahead(ADAM, every=5))
    assert all(map(torch.equal, half[:4], inner[:4]))
    torch.testing.assert_close(half[4], STARTS + 0.5 * (inner[4] - STARTS), rtol=1e-14, atol=0)


def test_it_is_the_lookahead_of_pytorch_optimizer(subtests) -> None:
    theirs = pytest.importorskip("pytorch_optimizer")
    for reset in (False, True):
        momentum = GradientRule(Momentum(0.9), 0.1, schedule="constant")
        noiseless = Quadratics(noise=0.0)
        found = follow(Lookahead(momentum, every=4, reset=reset), noiseless, STARTS, torch.Generator())
        ours = [params for params, _ in islice(found, 13)]
        point = STARTS.clone().requires_grad_()
        inner = torch.optim.SGD([point], 0.1, momentum=0.9)
        wrapped = theirs.Lookahead(inner, k=4, alpha=0.5, pullback_momentum="reset" if reset else "none")
        for step in range(13):
            point.grad = (point.detach() - noiseless.minimum) @ noiseless.matrix
            wrapped.step()
            with subtests.test(reset=reset, step=step):
                torch.testing.assert_close(ours[step], point.detach(), rtol=1e-9, atol=1e-9)


def test_the_variance_on_the_noisy_quadratic_is_that_of_the_paper() -> None:
    """Zhang et al. 2019, proposition 2. Coordinates of one curvature are chains with noise of their own."""
    rate, k, alpha, r, steps = 0.3, 5, 0.5, 0.7, range(50, 1500, 5)
    task = Quadratics([1.0] * 250, noise=1.0, num_examples=2000)
    sgd, gap = rate**2 / (1 - r**2), 1 - r ** (2 * k)
    lookahead = sgd * alpha**2 * gap / (alpha**2 * gap + 2 * alpha * (1 - alpha) * (1 - r**k))
    inner = SGDRule(learning_rate=rate, schedule="constant")
    for rule, wanted in ((inner, sgd), (Lookahead(inner, alpha, k), lookahead)):
        start = task.minimum.float()[None]
        moved = follow(rule, task, start, torch.Generator().manual_seed(0), batch_size=1, steps=steps)
        away = torch.cat([params for params, _ in moved]) - task.minimum
        assert away.square().mean().item() == pytest.approx(wanted, rel=0.02)


def test_what_the_inner_rule_draws_is_drawn_and_recorded() -> None:
    rule = Lookahead(SGDRule(learning_rate_range=(0.01, 0.1)))
    drawn, about = rule.draw(3, torch.Generator().manual_seed(0))
    assert list(drawn.inner.learning_rate) == [each["learning_rate"] for each in about]
    assert len(set(drawn.inner.learning_rate)) == 3
    settings = rule_settings(Lookahead(Lookahead(ADAM)))
    assert (settings["name"], settings["inner"]["name"], settings["inner"]["inner"]["name"]) == (
        "lookahead",
        "lookahead",
        "adam",
    )
    for settings, message in (({"alpha": 1.5}, "alpha must lie between 0 and 1"), ({"every": 0}, "every must be at l")):
        with pytest.raises(ValueError, match=message):
            Lookahead(**settings)
