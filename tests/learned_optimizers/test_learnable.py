"""small_fc, STAR and L2L: their promises, and what they compute against formulas by hand and PyTorch's LSTM."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from g_pt.learned_optimizers.features import decays, factored_axes, features, first_layer, fresh_state, next_state
from g_pt.learned_optimizers.lstm import Lstm, inputs
from g_pt.learned_optimizers.mlp import SmallFc, Star
from g_pt.testing import check_learned_optimizer

VARIANTS = [
    SmallFc(),
    Star(zero_head=False),
    Star(nominal="adam", per_tensor=False, preconditioned=True, zero_head=False),
    Star(nominal="gradient", zero_head=False),
    Star(nominal="mean-momentum", zero_head=False),
    Lstm(width=3),
]


@pytest.mark.parametrize("learned", VARIANTS, ids=str)
def test_a_learnable_optimizer_keeps_its_promises(learned) -> None:
    check_learned_optimizer(learned)


def test_the_numbers_of_weights_are_those_of_the_papers() -> None:
    assert [SmallFc().num_weights, Star().num_weights] == [197, 207]
    two_biases = 2 * 4 * 20  # PyTorch and the paper's code have two for each layer, which add up
    assert Lstm().num_weights + two_biases == 5301


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features_by_hand(param: torch.Tensor, grads: list[torch.Tensor]) -> list[torch.Tensor]:
    """The 28 features of one 2 x 3 matrix after some gradients, in the words of Metz et al. 2022."""
    momenta, square = [torch.zeros(2, 3).double() for _ in range(3)], torch.zeros(2, 3).double()
    rows, columns = [torch.zeros(2, 1).double()] * 3, [torch.zeros(1, 3).double()] * 3
    for g in grads:
        momenta = [d * m + (1 - d) * g for d, m in zip((0.9, 0.99, 0.999), momenta, strict=True)]
        square = 0.999 * square + 0.001 * g**2
        seen = g**2 + 1e-30
        rows = [d * r + (1 - d) * seen.mean(1, keepdim=True) for d, r in zip((0.9, 0.99, 0.999), rows, strict=True)]
        columns = [
            d * c + (1 - d) * seen.mean(0, keepdim=True) for d, c in zip((0.9, 0.99, 0.999), columns, strict=True)
        ]
    g, root = grads[-1], 1 / (square + 1e-6).sqrt()
    factors = [1 / (r / (r.mean() + 1e-9)).sqrt() / c.sqrt() for r, c in zip(rows, columns, strict=True)]
    found = [g, param, *momenta, square, *(m * root for m in momenta), root]
    found += [f * g for f in factors] + [f * m for f, m in zip(factors, momenta, strict=True)]
    for means in (rows, columns):
        found += [*means, *(1 / (mean + 1e-8).sqrt() for mean in means)]
    return [one.expand(2, 3) / (one.expand(2, 3).square().mean() + 1e-5).sqrt() for one in found]


def test_the_first_layer_sees_the_39_features() -> None:
    params, grads = normal(2, 2, 3), [normal(2, 2, 3, seed=k) for k in (1, 2, 3)]
    state, decay = fresh_state(params), decays(torch.zeros(1, 7, dtype=torch.float64))
    for grad in grads:
        state = next_state(state, grad, decay)
    weights, bias, steps = normal(2, 39, 4), normal(2, 4), torch.tensor([2.0, 50.0], dtype=torch.float64)
    found = first_layer(weights, bias, params, grads[-1], state, steps)
    times = torch.tensor([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5], dtype=torch.float64)
    for network in (0, 1):
        by_hand = features_by_hand(params[network], [grad[network] for grad in grads])
        by_hand += [torch.tanh(steps[network] / time - 1).expand(2, 3) for time in times]
        assert len(by_hand) == 39
        wanted = torch.einsum("frc,fh->hrc", torch.stack(by_hand), weights[network]) + bias[network][:, None, None]
        torch.testing.assert_close(torch.stack([one[network] for one in found]), wanted, rtol=1e-9, atol=1e-9)


def test_rows_are_of_the_shorter_of_the_two_longest_axes() -> None:
    assert factored_axes(torch.Size((5, 3, 8))) == (1, 2)
    assert factored_axes(torch.Size((5, 8, 3))) == (2, 1)
    assert factored_axes(torch.Size((5, 8, 16, 3, 3))) == (1, 2)
    assert factored_axes(torch.Size((5, 8))) is None
    state = next_state(fresh_state(torch.zeros(5, 8, 3)), torch.ones(5, 8, 3), decays(torch.zeros(1, 7)))
    assert [tuple(t.shape) for t in state] == [(5, 3, 8, 3), (5, 8, 3), (5, 3, 1, 3), (5, 3, 8, 1)]
    assert [len(some) for some in features(torch.zeros(5, 4), torch.ones(5, 4), fresh_state(torch.zeros(5, 4)))] == [
        16,
        6,
        6,
    ]


def test_offsets_of_decays_act_in_the_logarithm() -> None:
    found = decays(torch.full((1, 7), -0.1, dtype=torch.float64))
    usual = 1 - torch.tensor([0.1, 0.01, 0.001], dtype=torch.float64) * torch.tensor(-1.0).exp()
    torch.testing.assert_close(found.momenta[0], usual)
    assert decays(torch.full((1, 7), 1.0)).square.item() == 0  # 1 - 0.001 e^10 is below
    assert decays(torch.full((1, 7), 1.0)).momenta.min() < 0  # as in google/learned_optimization


def steps(learned, weights, params, grads):
    optimizer = learned.optimizer(weights)
    state = optimizer.init(params)
    for grad in grads:
        params, state = optimizer.update(params, grad, torch.zeros(2), state, 1.0)
    return params


def test_a_fresh_star_is_its_nominal_optimizer_to_the_bit() -> None:
    """Mean of three momenta over the root of the mean of squares, with decay of the parameters."""
    star = Star(nominal_rate=0.01, weight_decay=0.1)
    start, grads = {"w": normal(2, 3, 4).float()}, [{"w": normal(2, 3, 4, seed=k).float()} for k in (1, 2, 3)]
    found = steps(star, star.init(torch.Generator().manual_seed(0)), start, grads)["w"]
    param, momenta, square = start["w"], torch.zeros(2, 3, 3, 4), torch.zeros(2, 3, 4)
    decay = decays(torch.zeros(1, 7))
    for grad in grads:
        g = grad["w"]
        momenta = torch.lerp(g[:, None], momenta, decay.momenta[..., None, None])
        square = torch.lerp(g * g, square, decay.square[..., None])
        param = param - (0.01 * (momenta.mean(1) * (square + 1e-6).rsqrt()) + 0.1 * param)
    assert torch.equal(found, param)


def test_without_nominal_and_decay_star_is_small_fc() -> None:
    small = SmallFc(step=0.01)
    star = Star(step=0.01, nominal_rate=0.0, weight_decay=0.0, zero_head=False)
    weights = star.init(torch.Generator().manual_seed(0))
    parts = list(weights.split([156, 4, 16, 4, 16, 4, 7]))
    parts[4], parts[5] = parts[4].view(4, 4)[:, :2].flatten(), parts[5][:2]
    start, grads = {"w": normal(2, 3, 4).float()}, [{"w": normal(2, 3, 4, seed=k).float()} for k in (1, 2)]
    found = steps(star, weights, start, grads)["w"]
    torch.testing.assert_close(found, steps(small, torch.cat(parts), start, grads)["w"])


def test_heads_of_star_control_rate_and_decay() -> None:
    start, grads = {"w": normal(2, 3, 4).float()}, [{"w": normal(2, 3, 4, seed=1).float()}]
    star = Star(nominal_rate=0.01, weight_decay=0.1)
    weights = star.init(torch.Generator().manual_seed(0))
    louder = weights.clone()
    louder[-9:-7] = torch.tensor([0.5, -1.0])  # biases of n and r
    found = steps(star, louder, start, grads)["w"]
    changed = dataclasses.replace(star, nominal_rate=0.01 * 2.718281828**0.5, weight_decay=0.1 / 2.718281828)
    torch.testing.assert_close(found, steps(changed, weights, start, grads)["w"])


def test_the_lstm_is_that_of_pytorch() -> None:
    learned = Lstm(width=5)
    weights = learned.init(torch.Generator().manual_seed(0)) + 0.1 * normal(learned.num_weights).float()
    first, second, output = torch.nn.LSTMCell(2, 5), torch.nn.LSTMCell(5, 5), torch.nn.Linear(5, 1)
    parts = weights.split([40, 100, 20, 100, 100, 20, 5, 1])
    with torch.no_grad():
        for cell, (w, u, b) in ((first, parts[:3]), (second, parts[3:6])):
            cell.weight_ih.copy_(w.view(-1, 20).T)
            cell.weight_hh.copy_(u.view(-1, 20).T)
            cell.bias_ih.copy_(b)
            cell.bias_hh.zero_()
        output.weight.copy_(parts[6].view(1, 5))
        output.bias.copy_(parts[7])
        param, one, two = {"w": normal(2, 3).float()}, None, None
        grads = [{"w": normal(2, 3, seed=k).float() * 1e-3} for k in (1, 2, 3)]
        found, wanted = steps(learned, weights, param, grads)["w"], param["w"]
        for grad in grads:
            g = grad["w"].reshape(-1, 1)
            logs = ((g.abs() + 1e-8).log() / 5).clamp(min=-1)
            one = first(torch.cat([logs, (148.4131591 * g).clamp(-1, 1)], dim=1), one)
            two = second(one[0], two)
            wanted = wanted + 0.1 * output(two[0]).view(2, 3)
    torch.testing.assert_close(found, wanted)
    assert inputs(torch.zeros(1, 1), 5.0).flatten().tolist() == [-1, 0]
