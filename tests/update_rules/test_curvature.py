"""FOOF, KFAC and mini-block Fisher against what their formulas say, solved densely; what is done where they fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from blobs import Blobs
from convolutions import Convolutions
from torch import Tensor, nn

from g_pt.tasks import get_task
from g_pt.tasks.examples import LabelledExamples
from g_pt.tasks.regression import RegressionTask
from g_pt.testing import check_rule
from g_pt.update_rules.curvature import damped_inverse, running_mean
from g_pt.update_rules.first_order import SGD
from g_pt.update_rules.foof import Foof
from g_pt.update_rules.gradient import AdamRule, SGDRule
from g_pt.update_rules.kfac import OUTPUTS, Kfac
from g_pt.update_rules.mini_block_fisher import MiniBlockFisher
from g_pt.update_rules.problem import TaskProblem, follow
from g_pt.update_rules.registry import make_rule

Tensors = dict[str, Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_step_of_foof_solves_least_squares_on_the_outputs() -> None:
    inputs, errors, damping = normal(3, 20, 5), normal(3, 20, 4, seed=1), torch.tensor([0.1, 0.5, 2.0]).double()
    with_one = torch.cat([inputs, torch.ones(3, 20, 1)], dim=2)  # (B, N, n)
    grad = errors.transpose(1, 2) @ with_one / 20
    inverse, wrong = damped_inverse(with_one.transpose(1, 2) @ with_one / 20, damping)
    found = Foof().directions({"fc.weight": grad[..., :-1], "fc.bias": grad[..., -1]}, {"fc": inverse})
    change = torch.cat([found["fc.weight"], found["fc.bias"][..., None]], dim=2)
    # gradient of mean over examples of |D a - e|^2 / 2 + damping |D|^2 / 2
    slope = (with_one @ change.transpose(1, 2) - errors).transpose(1, 2) @ with_one / 20
    assert (slope + damping[:, None, None] * change).abs().max() < 1e-10
    assert not wrong.any()


class TwoPoints(RegressionTask):
    """The toy of section 2 of Benzing 2022: its gradient makes the second point worse, however short the step."""

    name = "two-points"
    splits = dict.fromkeys(
        ("train", "validation", "test"),
        LabelledExamples(torch.tensor([[3.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0], [-1.0]])),
    )

    def network(self) -> nn.Module:
        return nn.Linear(2, 1, bias=False)


def test_one_step_of_foof_hits_two_points_of_which_a_gradient_misses_one() -> None:
    task, start = TwoPoints(), torch.zeros(1, 2)

    def end(rule) -> Tensor:
        return next(follow(replace(rule, schedule="constant"), task, start, torch.Generator(), steps=[1]))[0]

    hit = end(Foof(learning_rate=0.5, damping=1e-7))  # the loss is a square, not half of it
    torch.testing.assert_close(hit, torch.tensor([[-1.0, 4.0]]), rtol=0, atol=1e-3)
    assert end(SGDRule(learning_rate=1e-3))[0, 0] > 0  # where the second point asks for -1


def test_convolutions_and_linear_layers_are_served_and_others_refused_by_name() -> None:
    for name in ("foof", "kfac", "mini-block-fisher"):
        check_rule(make_rule(name), Convolutions())
    for name in ("foof", "kfac"):
        with pytest.raises(ValueError, match="layer '1' is BatchNorm1d"):
            next(follow(make_rule(name), Blobs(), Blobs().init(1, torch.Generator()), torch.Generator()))


def kronecker_sides() -> tuple[Tensors, Tensors]:
    """Gradients and moments of digits networks after some training, in float64."""
    task = get_task("digits")
    adam, starts = AdamRule(learning_rate=0.01, schedule="constant"), task.init(4, torch.Generator().manual_seed(0))
    path = follow(adam, task, starts, torch.Generator().manual_seed(0), steps=[30])
    params = task.layout.unflatten(next(path)[0])
    problem = TaskProblem(task, torch.Generator().manual_seed(1), batch_size=512)
    moments = Kfac().moments(params, {}, problem)
    return [{n: t.double() for n, t in tensors.items()} for tensors in (problem.gradients(params)[1], moments)]


def test_kfac_solves_with_a_kronecker_product_and_turns_to_foof_with_damping(subtests) -> None:
    grads, moments = kronecker_sides()
    cosines: dict[str, list[float]] = {"fc1": [], "fc2": []}
    for damping in (1e-6, 1e-4, 1e-2, 1.0):
        rule = Kfac(damping=damping)
        split = rule.dampings(moments)
        inverses = {name: damped_inverse(moment, split[name])[0] for name, moment in moments.items()}
        ours, foof = rule.directions(grads, inverses), Foof().directions(grads, {n: inverses[n] for n in cosines})
        for layer, found in cosines.items():
            left, right = ((moments[n] + split[n][:, None, None] * torch.eye(moments[n].shape[1]))[1]
                           for n in (layer + OUTPUTS, layer))  # fmt: skip
            torch.testing.assert_close(split[layer] * split[layer + OUTPUTS], torch.full((4,), damping).double())
            grad, change = (
                torch.cat([t[f"{layer}.weight"][1], t[f"{layer}.bias"][1][:, None]], 1) for t in (grads, ours)
            )
            solved = torch.linalg.solve(torch.kron(left, right), grad.flatten())
            with subtests.test(layer=layer, damping=damping):
                torch.testing.assert_close(change.flatten(), solved, rtol=1e-6, atol=1e-9 * solved.abs().max())
            weight = f"{layer}.weight"
            found.append(F.cosine_similarity(ours[weight].flatten(1), foof[weight].flatten(1)).mean().item())
    for layer, found in cosines.items():  # measured: 0.38 to 0.995, and 0.82 to 0.98
        assert found == sorted(found), layer
        assert found[-1] > 0.97 > 0.9 > found[0], layer


def dense_solve(grad: Tensor, block: Callable[[int, int], bool], damping: float) -> Tensor:
    """(F + damping I)^-1 g of one network, F being g g^T where two numbers are in one block."""
    size = len(grad)
    mask = torch.tensor([[block(i, j) for j in range(size)] for i in range(size)])
    return torch.linalg.solve(grad[:, None] * grad * mask + damping * torch.eye(size).double(), grad)


def test_mini_blocks_are_solved_as_one_dense_matrix_of_them(subtests) -> None:
    grads = {"weight": normal(2, 3, 4), "kernel": normal(2, 2, 3, 2, 2, seed=1), "bias": normal(2, 5, seed=2)}
    cases = {
        "the paper's": (None, {"kernel": lambda i, j: i // 4 == j // 4, "bias": lambda i, j: i == j}),
        "diagonal": (1, dict.fromkeys(grads, lambda i, j: i == j)),
        "five": (5, dict.fromkeys(grads, lambda i, j: i // 5 == j // 5)),
        "tensors": (24, dict.fromkeys(grads, lambda i, j: True)),
    }
    for case, (size, blocks) in cases.items():
        rule = MiniBlockFisher(block_size=size)
        inverses = {n: damped_inverse(m, 0.1)[0] for n, m in rule.moments({}, grads, None).items()}
        found = rule.directions(grads, inverses)
        for name, block in blocks.items():
            with subtests.test(case=case, tensor=name):
                for i in range(2):
                    wanted = dense_solve(grads[name][i].flatten(), block, 0.1)
                    torch.testing.assert_close(found[name][i].flatten(), wanted, rtol=1e-10, atol=1e-12)
        if size is None:  # neurons share the mean of their moments
            mean = grads["weight"].transpose(1, 2) @ grads["weight"] / 3 + 0.1 * torch.eye(4).double()
            torch.testing.assert_close(found["weight"] @ mean, grads["weight"])
    alike = {"weight": grads["weight"][:, :1].expand(2, 3, 4).contiguous()}
    shared, apart = (
        rule.directions(alike, {n: damped_inverse(m, 0.1)[0] for n, m in rule.moments({}, alike, None).items()})
        for rule in (MiniBlockFisher(), MiniBlockFisher(block_size=4))
    )
    torch.testing.assert_close(shared["weight"], apart["weight"])


def test_means_are_unbiased_and_what_is_not_finite_is_left_out_and_counted() -> None:
    first, second = torch.eye(2).expand(3, 2, 2), 3 * torch.eye(2).repeat(3, 1, 1)
    mean, _ = running_mean(None, first, 1.0)
    assert mean.stride(0) == 0  # one matrix for all stays one
    second[1] = torch.nan
    mean, wrong = running_mean(mean, second, 0.5)
    assert wrong.tolist() == [False, True, False]
    assert torch.equal(mean, torch.stack([2 * torch.eye(2), torch.eye(2), 2 * torch.eye(2)]))
    assert torch.equal(running_mean(None, second, 1.0)[0][1], torch.eye(2))
    singular = torch.stack([torch.ones(2, 2), torch.eye(2)]) - 0.1 * torch.eye(2)
    inverse, wrong = damped_inverse(singular, 0.0)
    assert wrong.tolist() == [True, False]
    assert torch.equal(inverse[0], torch.eye(2))  # the gradient is taken as it is
    assert torch.equal(damped_inverse(singular, 0.0, 7 * torch.ones(2, 2, 2))[0][0], 7 * torch.ones(2, 2))
    task = get_task("digits")
    starts = task.init(2, torch.Generator().manual_seed(0))
    alone = starts[:1].clone()
    starts[1] = torch.nan
    for name in ("foof", "kfac", "mini-block-fisher", "m-fac"):
        rule = replace(make_rule(name), schedule="constant", **({} if name == "m-fac" else {"inverse_every": 2}))
        (ends, cost), (end, of_one) = (
            next(follow(rule, task, some, torch.Generator().manual_seed(1), steps=[4])) for some in (starts, alone)
        )
        assert (cost.fallbacks, of_one.fallbacks) == ((2.0, 0.0) if name == "m-fac" else (1.0, 0.0))  # half of them
        torch.testing.assert_close(ends[:1], end, rtol=1e-3, atol=1e-5)


def test_impossible_settings_are_refused_by_name() -> None:
    for settings, message in (
        ({"damping": (0.1, -1.0)}, "damping must not be negative"),
        ({"decay": 1.0}, "decay must lie between 0 and 1"),
        ({"seen_steps": 3, "inverse_every": 2}, "seen_steps must lie between 1 and inverse_every = 2, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            Foof(SGD(), **settings)
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        MiniBlockFisher(block_size=0)
