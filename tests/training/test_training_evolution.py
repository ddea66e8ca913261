"""Evolution strategies: the estimate against gradients that are known."""

import pytest
import torch
from builders import build_pipeline

from g_pt.evolution.antithetic import perturbations, squared_gap_gradient, with_gradient
from g_pt.networks.metrics import Metric
from g_pt.tasks.base import Task
from g_pt.training.config import AlignmentConfig
from g_pt.training.metric_gap import ExactlyReached, ReachedByEvolution, has_exact_gradient, make_reached

P = 6
MATRIX = torch.randn(P, P, generator=torch.Generator().manual_seed(0))


def linear(params):
    return params @ MATRIX[0]


def quadratic(params):
    return linear(params) + 0.5 * torch.einsum("np,pq,nq->n", params, MATRIX @ MATRIX.T, params)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_full_set_of_orthogonal_pairs_gives_the_gradient_of_a_linear_metric_up_to_their_lengths():
    params, wanted = torch.randn(3, P, generator=generator(1)), torch.tensor([0.5, -1.0, 2.0])
    noise = perturbations(params.shape, P, generator())
    noise = noise / noise.norm(dim=-1, keepdim=True) * P**0.5
    gaps, gradient = squared_gap_gradient(linear, params, wanted, noise, sigma=0.1)
    torch.testing.assert_close(gaps, (linear(params) - wanted).square())
    torch.testing.assert_close(gradient, 2 * (linear(params) - wanted)[:, None] * MATRIX[0].expand(3, P))


def test_the_estimate_is_right_on_average():
    params = torch.randn(1, P, generator=generator(1)).expand(4000, P)
    noise = perturbations(params.shape, 2, generator())
    _, gradient = squared_gap_gradient(quadratic, params, torch.full((4000,), 50.0), noise, sigma=1e-2)
    exact = params[:1].clone().requires_grad_()
    (quadratic(exact) - 50.0).square().sum().backward()
    error = (gradient.mean(dim=0) - exact.grad[0]).norm() / exact.grad.norm()
    assert error < 0.05
    assert (gradient[0] - exact.grad[0]).norm() / exact.grad.norm() > 0.2, "a single one is not"


def test_perturbations_are_orthogonal_and_as_long_as_normal_noise():
    noise = perturbations(torch.Size((500, 40)), 8, generator())
    products = noise @ noise.mT
    off_diagonal = products - torch.diag_embed(products.diagonal(dim1=1, dim2=2))
    assert off_diagonal.abs().max() < 1e-3
    assert noise.square().mean().item() == pytest.approx(1.0, abs=0.02)
    assert noise.mean(dim=(0, 1)).abs().max() < 0.1
    assert perturbations(torch.Size((2, 3)), 5, generator()).shape == (2, 5, 3), "more pairs than parameters"


def test_a_value_with_a_given_gradient():
    params = torch.tensor([[1.0, 2.0]], requires_grad=True)
    loss = with_gradient(torch.tensor(7.0), params, torch.tensor([[3.0, -4.0]]))
    loss.backward()
    assert loss.item() == 7.0
    assert params.grad.tolist() == [[3.0, -4.0]]


def test_on_digits_the_estimate_points_along_the_exact_gradient(digits):
    pipeline = build_pipeline(digits)
    x_0 = pipeline.normalizer.normalize(digits.init(8, generator(3)))
    gradients, values = [], []
    for kind, options in (
        (ExactlyReached, AlignmentConfig(num_examples=1000)),
        (ReachedByEvolution, AlignmentConfig(num_examples=1000, batch_size=8, evolution_pairs=256)),
    ):
        sampled = x_0.clone().requires_grad_()
        reached = kind(digits, pipeline.metric, pipeline.normalizer, options)
        loss = reached.squared_gap(sampled, torch.full((8,), -1.0), generator(4), slice(None))
        loss.backward()
        gradients.append(sampled.grad)
        values.append(loss.item())
    assert values[1] == pytest.approx(values[0], rel=0.1)
    cosine = torch.cosine_similarity(*gradients, dim=1)
    assert cosine.min() > 0.3  # chance: 1 / sqrt(1210) = 0.03
    assert (gradients[1].norm(dim=1) / gradients[0].norm(dim=1)).min() > 0.7


def test_the_share_of_a_process_is_that_of_the_whole_batch(digits):
    pipeline = build_pipeline(digits)
    options = AlignmentConfig(num_examples=64, batch_size=4, evolution_pairs=3)
    reached = ReachedByEvolution(digits, digits.metric("error"), pipeline.normalizer, options)
    x_0 = pipeline.normalizer.normalize(digits.init(4, generator(3)))
    wanted = torch.linspace(0, 4, 4)

    def gradient(rows):
        sampled = x_0[rows].clone().requires_grad_()
        reached.squared_gap(sampled, wanted[rows], generator(5), rows).backward()
        return sampled.grad

    whole, second = gradient(slice(None)), gradient(slice(2, 4))
    torch.testing.assert_close(second, 2 * whole[2:], rtol=1e-3, atol=1e-5)
    assert whole.abs().max() > 0


class OnlyMeasured(Task):
    """No training loss, but a metric that training may see."""

    name, metrics = "only measured", {"return": Metric("return", unit="return", minimize=False)}
    network = permutations = init = evaluate = None

    def sampled_metric(self, name, params, num_samples, generator):
        return params.sum(dim=1)


@pytest.mark.parametrize(
    ("metric", "gradient", "expected"),
    [("loss", "auto", True), ("loss", "evolution", False), ("loss", "exact", True), ("error", "auto", False)],
)
def test_the_gradient_is_exact_where_it_can_be_and_is_not_asked_to_be_estimated(digits, metric, gradient, expected):
    assert has_exact_gradient(digits, metric, gradient) is expected
    pipeline = build_pipeline(digits)
    reached = make_reached(digits, digits.metric(metric), pipeline.normalizer, AlignmentConfig(gradient=gradient))
    assert isinstance(reached, ExactlyReached if expected else ReachedByEvolution)


def test_any_task_that_can_be_measured_in_training_has_an_estimate():
    task = object.__new__(type("Measured", (OnlyMeasured,), {"__abstractmethods__": frozenset()}))
    assert has_exact_gradient(task, "return", "auto") is False
    with pytest.raises(ValueError, match="metric 'return' of task 'only measured' has no exact gradient"):
        has_exact_gradient(task, "return", "exact")
    task = object.__new__(
        type("Unmeasured", (OnlyMeasured,), {"__abstractmethods__": frozenset(), "sampled_metric": Task.sampled_metric})
    )
    with pytest.raises(ValueError, match="define sampled_metric of task 'only measured'"):
        has_exact_gradient(task, "return", "auto")
