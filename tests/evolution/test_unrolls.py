"""Gradients along unrolled processes against the exact one, on a scalar recursion whose gradient is known."""

from __future__ import annotations

import math

import pytest
import torch

from g_pt.evolution.unrolls import EvolutionStrategies, TruncatedBackpropagation, UnrollState, leaves

DECAY, HORIZON, WINDOW, NUM_PAIRS = 0.9, 20, 2, 4000


class Recursion:
    """s <- 0.9 s + w with loss (s - c_t)^2 / 2, so that most of the gradient comes from steps long ago.

    Its state carries the time, since estimators do not tell it.
    """

    horizon = HORIZON

    def begin(self, num, generator):
        return {"s": torch.zeros(num, dtype=torch.float64), "t": torch.zeros(num)}

    def run(self, weights, state, num_steps, generator):
        s, t, losses = state["s"], state["t"], []
        for _ in range(num_steps):
            s = DECAY * s + weights.view(-1)
            t = t + 1
            losses.append((s - torch.sin(t)).square() / 2)
        return torch.stack(losses), {"s": s, "t": t}


def exact(weight: float) -> float:
    leaf = torch.tensor([weight], dtype=torch.float64, requires_grad=True)
    losses, _ = Recursion().run(leaf, Recursion().begin(1, torch.Generator()), HORIZON, torch.Generator())
    losses.mean().backward()
    return leaf.grad.item()


def estimates(estimator, num: int) -> torch.Tensor:
    """Means over the windows of a whole horizon, which the processes are in lockstep for."""
    generator, weights, found = torch.Generator().manual_seed(0), torch.tensor([0.3], dtype=torch.float64), []
    num_windows = HORIZON // (estimator.window or HORIZON)
    state = estimator.begin(Recursion(), 1, generator)
    state = state._replace(ages=torch.full_like(state.ages, HORIZON))  # all begin at once
    for _ in range(num):
        gradients = []
        for _ in range(num_windows):
            estimate = estimator.estimate(Recursion(), weights, state, generator)
            state = estimate.state
            gradients.append(estimate.gradient)
        found.append(torch.stack(gradients).mean())
    return torch.stack(found)


def test_pes_is_unbiased_and_truncation_is_not(subtests) -> None:
    true, num = exact(0.3), 40
    settings = {"max_loss": math.inf, "rising": False, "num_pairs": NUM_PAIRS, "sigma": 0.3}
    for noise, window in (("persistent", WINDOW), ("shared", WINDOW), ("persistent", None)):
        found = estimates(EvolutionStrategies(noise=noise, window=window, **settings), num)
        with subtests.test(noise=noise, window=window):
            assert abs(found.mean() - true) < 3 * found.std() / math.sqrt(num)
            assert found.std() / math.sqrt(num) < 0.02 * true  # or being within it says nothing
    found = estimates(EvolutionStrategies(noise="truncated", window=WINDOW, **settings), num)
    assert true - found.mean() > 50 * found.std() / math.sqrt(num)
    # for a quadratic loss the truncated estimate is that of truncated backpropagation
    backpropagated = estimates(TruncatedBackpropagation(WINDOW, math.inf, False, num_processes=2), 1)
    assert abs(found.mean() - backpropagated.item()) < 3 * found.std() / math.sqrt(num)


def test_backpropagation_through_the_whole_horizon_is_exact() -> None:
    estimator = TruncatedBackpropagation(window=None, max_loss=math.inf, rising=False, num_processes=3)
    torch.testing.assert_close(estimates(estimator, 2), torch.full((2,), exact(0.3), dtype=torch.float64))


def test_processes_begin_anew_at_their_own_ends() -> None:
    estimator, generator = EvolutionStrategies(window=5, num_pairs=4), torch.Generator().manual_seed(0)
    state, weights = None, torch.tensor([0.1], dtype=torch.float64)
    ages, summed = [], []
    for _ in range(5):
        state = estimator.estimate(Recursion(), weights, state, generator).state
        ages.append(state.ages.tolist())
        summed.append(torch.equal(state.noise, state.summed))
        assert torch.equal(state.processes["t"][:4], state.processes["t"][4:])
    assert ages == [[5, 10, 15, 20], [10, 15, 20, 5], [15, 20, 5, 10], [20, 5, 10, 15], [5, 10, 15, 20]]
    assert state.processes["t"][:4].tolist() == [5, 10, 15, 20]
    assert summed == [True, False, False, False, False]


def test_losses_are_clamped_counted_and_weighed() -> None:
    losses = torch.tensor([[1.0, torch.nan], [5.0, 1.0]])
    estimator = EvolutionStrategies(window=2, max_loss=3.0)
    means, clamped = estimator.weighed(losses, torch.tensor([0, 2]), 4)
    assert clamped == 0.5
    torch.testing.assert_close(means, torch.tensor([(0.5 * 1 + 1.0 * 3) / 2, (1.5 * 3 + 2.0 * 1) / 2]))


def test_a_process_that_diverges_begins_anew_and_leaves_no_gradient() -> None:
    class Diverging(Recursion):
        def run(self, weights, state, num_steps, generator):
            losses, after = super().run(weights, state, num_steps, generator)
            return losses * torch.tensor([1.0, torch.inf]), after

    estimator = TruncatedBackpropagation(window=5, num_processes=2)
    weights = torch.tensor([0.3], dtype=torch.float64)
    first = estimator.estimate(Diverging(), weights, None, torch.Generator())
    assert first.clamped == 0.5
    assert first.gradient.isfinite().all()
    assert first.state.ages.tolist()[1] == HORIZON


def test_settings_without_a_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the window, got 20 and 3"):
        EvolutionStrategies(window=3).estimate(Recursion(), torch.zeros(1), None, torch.Generator())
    with pytest.raises(ValueError, match="at least 1, got 0"):
        EvolutionStrategies(window=0)


def test_trees_keep_their_kinds() -> None:
    state = UnrollState({"a": (torch.ones(1), None)}, torch.zeros(1), torch.ones(2), torch.ones(3))
    assert [len(tensor) for tensor in leaves(state)] == [1, 1, 2, 3]
