"""Dynamic modes of descent on quadratics, whose eigenvalues are known; pydmd as oracle; the rule that jumps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from g_pt.tasks import get_task
from g_pt.tasks.quadratics import Quadratics
from g_pt.update_rules.dynamic_modes import DynamicModes, dynamic_modes, mode_features
from g_pt.update_rules.gradient import AdamRule, SGDRule
from g_pt.update_rules.problem import follow

SPECTRUM, RATE = [0.1, 0.3, 0.6, 0.9, 1.2, 1.5], 0.5
TASK = Quadratics(SPECTRUM, noise=0.0)
SGD = SGDRule(learning_rate=RATE, schedule="constant")
STARTS = TASK.init(2, torch.Generator().manual_seed(0)).double()


def descent(num_steps: int) -> Tensor:
    """Points (2, num_steps + 1, 6) of gradient descent."""
    steps = range(num_steps + 1)
    return torch.stack([params for params, _ in follow(SGD, TASK, STARTS, torch.Generator(), steps=steps)], dim=1)


def test_eigenvalues_are_those_of_descent_and_tell_what_comes() -> None:
    points = descent(18) - TASK.minimum
    found = dynamic_modes(points[:, :9], rank=6)
    wanted = sorted(1 - RATE * value for value in SPECTRUM)
    for eigenvalues in found.eigenvalues:
        assert sorted(eigenvalues.real.tolist()) == pytest.approx(wanted, abs=1e-6)
    torch.testing.assert_close(found.modes.sum(dim=2).real, points[:, 8])
    ahead = points[:, 9] + dynamic_modes(points[:, :10].diff(dim=1), rank=6).sum_ahead(9)
    assert (ahead - points[:, 18]).norm() / points[:, 18].norm() < 1e-6
    torch.testing.assert_close(found.sum_ahead(10), points[:, 9:19].sum(dim=1), rtol=1e-6, atol=1e-8)
    first, second, times = points[:1, 0], points[1:, 0], torch.arange(9.0).double()[:, None]
    fewer = dynamic_modes((0.5**times * first + 0.8**times * second)[None], rank=4)  # more than there are
    assert sorted(fewer.eigenvalues[0].abs().tolist()) == pytest.approx([0, 0, 0.5, 0.8], abs=1e-6)


def test_modes_are_those_of_pydmd(subtests) -> None:
    DMD = pytest.importorskip("pydmd").DMD
    drawn = torch.randn(3, 9, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(dim=1)
    ours = dynamic_modes(drawn, rank=3)
    for i, snapshots in enumerate(drawn):
        theirs = DMD(svd_rank=3).fit(snapshots.T.numpy())
        with subtests.test(trajectory=i):
            order = lambda values: sorted(values, key=lambda z: (round(z.real, 6), z.imag))  # noqa: E731
            assert order(ours.eigenvalues[i].tolist()) == pytest.approx(order(theirs.eigs.tolist()), abs=1e-9)
            basis, mine = torch.from_numpy(theirs.modes), ours.modes[i]
            spanned = basis @ torch.linalg.lstsq(basis, mine.to(basis)).solution
            torch.testing.assert_close(spanned, mine, rtol=1e-9, atol=1e-9)


def test_growth_is_cut_where_asked() -> None:
    growing = 1.1 ** torch.arange(6.0).double()[None, :, None] * torch.ones(1, 6, 2)
    assert dynamic_modes(growing, 1).eigenvalues.abs().item() == pytest.approx(1.1)
    assert dynamic_modes(growing, 1, most_growth=1.0).eigenvalues.abs().item() == pytest.approx(1.0)


def test_features_say_what_the_next_steps_do_and_pass_gradients_on() -> None:
    points = descent(12).requires_grad_()
    features = mode_features(points[:, :9], rank=6, ahead=4)
    assert features.shape == (2, 6, 13)
    last = points[:, 8] - points[:, 7]
    torch.testing.assert_close(features[..., :6].sum(dim=2), last)  # parts of the last step
    torch.testing.assert_close(features[..., -1], points[:, 12] - points[:, 8], rtol=1e-5, atol=1e-7)
    (grad,) = torch.autograd.grad(features[..., -1].sum(), points)
    assert grad.isfinite().all()
    assert grad.abs().max() > 0


def test_a_jump_lands_where_the_inner_rule_would_without_its_gradients(subtests) -> None:
    for spacing in (1, 2):
        rule = DynamicModes(SGD, history=8, spacing=spacing, rank=6, ahead=5)
        steps = [8 * spacing - 1, 8 * spacing, 8 * spacing + 1]
        (before, _), (ends, cost), (later, _) = follow(rule, TASK, STARTS, torch.Generator(), steps=steps)
        plain = descent(13 * spacing + 1)
        with subtests.test(spacing=spacing):
            torch.testing.assert_close(before, plain[:, 8 * spacing - 1])
            torch.testing.assert_close(ends, plain[:, 13 * spacing], rtol=0, atol=2e-5)
            torch.testing.assert_close(later, plain[:, 13 * spacing + 1], rtol=0, atol=2e-5)
            assert (cost.gradients, cost.fallbacks) == (8 * spacing, 0)
    broken = STARTS.clone()
    broken[1] = torch.nan
    [(ends, cost)] = follow(
        DynamicModes(SGD, history=2, spacing=1, ahead=3), TASK, broken, torch.Generator(), steps=[4]
    )
    assert ends[0].isfinite().all()
    assert cost.fallbacks == 1.0  # of two jumps, one of two networks stays


def test_jumps_shorten_the_way_of_adam_on_digits() -> None:
    """Measured over 16 networks: 0.55 after 40 steps and a jump, 0.72 without the jump, and 0.38 after 60 steps."""
    task = get_task("digits")
    starts = task.init(16, torch.Generator().manual_seed(0))
    adam = AdamRule(learning_rate=5e-3, schedule="constant")
    losses = []
    for rule, last in ((DynamicModes(adam), 40), (adam, 40), (adam, 60)):
        [(params, _)] = follow(rule, task, starts, torch.Generator().manual_seed(1), steps=[last])
        losses.append(task.evaluate(params, "validation")["loss"].mean().item())
    jumped, stayed, later = losses
    assert later < jumped < stayed - 0.3 * (stayed - later), losses


def test_impossible_settings_are_refused_by_name() -> None:
    for settings, message in (
        ({"history": 1}, "history must be at least 2, got 1"),
        ({"rank": 10}, "rank must be less than history, got 10 and 10: take more snapshots"),
        ({"ahead": 0}, "ahead must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            DynamicModes(**settings)
