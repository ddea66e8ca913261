"""Gradients of returns through a differentiable simulator."""

import pytest
import torch
from builders import build_pipeline

from g_pt.tasks import get_task
from g_pt.training.config import AlignmentConfig
from g_pt.training.metric_gap import ReachedByEvolution, ReachedByOwnGradient, has_exact_gradient, make_reached
from rl_tasks.episodes import differentiable_returns, simulated_returns
from rl_tasks.pendulum import PendulumSimulator


@pytest.fixture(scope="module")
def pendulum():
    return get_task("pendulum")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class WholeEpisodes(PendulumSimulator):
    gradient_horizon = 1000


def test_the_differentiable_return_is_the_return(pendulum):
    params = pendulum.init(4, generator())
    metric = pendulum.differentiable_metric("return", params, 3, generator(1))
    # float32 instead of float64 over 200 steps
    torch.testing.assert_close(metric, pendulum.sampled_metric("return", params, 3, generator(1)), rtol=2e-3, atol=0.5)


def test_over_a_few_steps_the_gradient_is_that_of_finite_differences(pendulum):
    starts = WholeEpisodes().starts(3, generator(1))
    params, direction = (
        pendulum.init(2, generator()),
        torch.randn(1, pendulum.layout.num_params, generator=generator(2)),
    )

    def returns(step):
        tensors = pendulum.layout.unflatten(params.double() + step * direction.double())
        return simulated_returns(WholeEpisodes(), pendulum.act, tensors_in_float(tensors), starts, 15).sum(dim=1)

    moved = params.clone().requires_grad_()
    differentiable_returns(WholeEpisodes(), pendulum.act, pendulum.layout.unflatten(moved), starts, 15).sum().backward()
    slopes = (returns(1e-2) - returns(-1e-2)) / 2e-2
    torch.testing.assert_close((moved.grad * direction).sum(dim=1).double(), slopes, rtol=2e-2, atol=2e-2)
    assert slopes.abs().min() > 0.1


def tensors_in_float(tensors):
    return {name: tensor.float() for name, tensor in tensors.items()}


def test_rewards_reach_back_to_the_last_multiple_of_the_horizon_only(pendulum):
    starts, params = PendulumSimulator().starts(2, generator(1)), pendulum.init(2, generator())

    def gradient(simulator):
        moved = params.clone().requires_grad_()
        tensors = pendulum.layout.unflatten(moved)
        differentiable_returns(simulator, pendulum.act, tensors, starts, 25).sum().backward()
        return moved.grad

    class OneStep(PendulumSimulator):
        gradient_horizon = 1

    # only the cost of the torque is felt within one step: 0.001 of its square
    assert 0 < gradient(OneStep()).norm() < 0.01 * gradient(WholeEpisodes()).norm()
    assert (gradient(PendulumSimulator()) - gradient(WholeEpisodes())).norm() > 0


def test_following_the_gradient_raises_the_return(pendulum):
    params = pendulum.init(8, generator()).requires_grad_()
    optimizer = torch.optim.Adam([params], lr=0.01)
    before = pendulum.evaluate(params.detach(), "validation")["return"]
    for step in range(12):
        returns = pendulum.differentiable_metric("return", params, 4, generator(step))
        gradient = torch.autograd.grad(-returns.sum(), params)[0]
        params.grad = gradient / gradient.norm(dim=1, keepdim=True)
        optimizer.step()
    assert (pendulum.evaluate(params.detach(), "validation")["return"] - before).mean() > 40


def test_pendulums_have_an_exact_gradient_unless_an_estimate_is_asked_for(pendulum):
    for kind, gradient in (
        (ReachedByOwnGradient, "auto"),
        (ReachedByOwnGradient, "exact"),
        (ReachedByEvolution, "evolution"),
    ):
        options, pipeline = AlignmentConfig(gradient=gradient), build_pipeline(pendulum)
        assert type(make_reached(pendulum, pendulum.metric("return"), pipeline.normalizer, options)) is kind
    assert not has_exact_gradient(get_task("cartpole"), "return", "auto")
    with pytest.raises(ValueError, match="'return' of task 'cartpole' has no gradient of its own"):
        get_task("cartpole").differentiable_metric("return", torch.zeros(1, 1282), 1, generator())


def test_long_gradients_are_shortened_to_the_median_and_values_that_are_not_finite_dropped():
    class Steep(type(get_task("pendulum"))):
        differentiable_metrics = ("return",)

        def differentiable_metric(self, name, params, num_samples, generator):
            moved = params[:, 0] - params.detach()[:, 0]  # zero
            return torch.cat([moved[:3] * torch.tensor([1.0, 2.0, 1e6]), moved[3:].sqrt()])

    task = Steep()
    pipeline = build_pipeline(task)
    reached = ReachedByOwnGradient(task, task.metric("return"), pipeline.normalizer, AlignmentConfig(num_examples=1))
    x_0 = torch.zeros(4, task.layout.num_params, requires_grad=True)
    loss = reached.squared_gap(x_0, torch.ones(4), generator(), slice(None))
    loss.backward()
    lengths = x_0.grad.norm(dim=1)
    torch.testing.assert_close(lengths / lengths[0], torch.tensor([1.0, 1.0, 1.0, 0.0]))
