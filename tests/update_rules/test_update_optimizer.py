"""A G.pt as an optimizer: the guard, the fallback, the best of K samples, in a plain loop."""

import math

import pytest
import torch
import torch.nn.functional as F
from builders import build_pipeline, randomise
from torch import nn

from g_pt import ParameterUpdatePipeline, UpdateOptimizer
from g_pt.model.pipeline import ParameterUpdateOutput
from g_pt.networks.modules import module_params, write_module
from g_pt.tasks.mlp import mlp


class Oracle:
    """Stands for a pipeline: answers with the given vectors, and notes what it was asked."""

    def __init__(self, pipeline: ParameterUpdatePipeline, *answers: list[torch.Tensor]) -> None:
        for name in ("layout", "metric", "config", "task", "facts"):
            setattr(self, name, getattr(pipeline, name))
        self.answers, self.asked = list(answers), []

    def __call__(self, starts, prompt, starting, **_):
        self.asked.append((starts, prompt, starting))
        return ParameterUpdateOutput(torch.stack(self.answers.pop(0)), torch.full((len(starts),), starting))


def closure_for(module, digits, optimizer=None, examples=slice(0, 200)):
    data = digits.splits["train"]

    def closure():
        if optimizer is not None:
            optimizer.zero_grad()
        loss = F.cross_entropy(module(data.inputs[examples]), data.labels[examples])
        loss.backward()
        return loss

    return closure


def bad(layout):
    """Networks that give one class all the probability whatever comes, which is worse than any fresh network."""
    params = torch.zeros(layout.num_params)
    params[-1] = 30.0
    return params


def fresh(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    module = mlp((64, 16, 10))
    return nn.Sequential(module, nn.Dropout(dropout)) if dropout else module


def test_one_step_of_a_plain_loop_gets_under_the_loss_and_the_guard_is_monotone(digits):
    pipe = ParameterUpdatePipeline.from_pretrained("digits-loss")
    pipe.set_progress_bar_config(disable=True)
    module = fresh()
    optimizer = UpdateOptimizer(module, pipe, torch.optim.SGD(module.parameters(), lr=1e-3))
    closure = closure_for(module, digits, optimizer)
    losses = []
    for _ in range(4):
        losses.append(optimizer.step(closure).item())
    losses.append(closure().item())
    assert losses[0] > 2
    assert losses[1] < 0.3, "one update does what takes hundreds of steps"
    assert losses == sorted(losses, reverse=True)
    assert optimizer.num_kept >= 1
    assert optimizer.num_kept + optimizer.num_refused == 4
    assert (optimizer.prompted_metric,) == pipe.facts.best_prompts, "which lies below what the runs attain"


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    lambda p: torch.optim.AdamW(p, lr=0.01),
    lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3),
])  # fmt: skip
def test_refused_samples_leave_exactly_the_wrapped_optimizer(random_pipeline, digits, make):
    """Weights, BatchNorm, dropout and the state of the optimizer, bit for bit over several steps."""

    def build():
        torch.manual_seed(3)
        return nn.Sequential(mlp((64, 16, 10)), nn.Dropout(0.3))

    def run(module, optimizer, steps=4):
        torch.manual_seed(5)
        closure = closure_for(module, digits, optimizer)
        return [float(optimizer.step(closure)) for _ in range(steps)], torch.rand(1)

    plain = build()
    expected, drawn = run(plain, make(plain.parameters()))
    wrapped = build()
    worse = bad(random_pipeline.layout)
    oracle = Oracle(random_pipeline, *([worse, 2 * worse],) * 4)
    optimizer = UpdateOptimizer(wrapped[0], oracle, make(wrapped.parameters()), num_samples=2)
    got, drawn_too = run(wrapped, optimizer)
    assert optimizer.num_refused == 4
    assert got == expected
    assert torch.equal(drawn, drawn_too), "the random generators go on as if nothing had been tried"
    for a, b in zip(plain.state_dict().values(), wrapped.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_running_statistics_and_counters_of_refused_samples_are_undone():
    from g_pt.tasks.classification import ClassificationTask
    from g_pt.tasks.examples import split_examples

    inputs = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))

    class Normed(ClassificationTask):
        name = "normed"
        splits = split_examples(inputs, (inputs.sum(dim=1) > 0).long())

        def network(self):
            return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))

    task = Normed()
    pipeline = build_pipeline(task)
    pipeline.__dict__["task"] = task
    states = []
    for refuse in (False, True):
        torch.manual_seed(0)
        module = task.network().train()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        if refuse:
            worse = bad(pipeline.layout)
            optimizer = UpdateOptimizer(module, Oracle(pipeline, [worse], [worse]), optimizer)
        data = task.splits["train"]

        def closure(module=module, data=data):
            module.zero_grad()
            loss = F.cross_entropy(module(data.inputs), data.labels)
            loss.backward()
            return loss

        optimizer.step(closure)
        optimizer.step(closure)
        states.append(module.state_dict())
    assert states[0]["1.num_batches_tracked"] == 2
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_the_best_of_k_samples_is_kept(random_pipeline, digits):
    pipe = ParameterUpdatePipeline.from_pretrained("digits-loss")
    pipe.set_progress_bar_config(disable=True)
    good = [pipe(module_params(fresh(), pipe.layout), prompt).params[0] for prompt in (1.0, 0.2, 0.5)]
    nan = torch.full_like(good[0], math.nan)
    module = fresh()
    optimizer = UpdateOptimizer(
        module, Oracle(random_pipeline, [good[0], nan, good[1], good[2]]), torch.optim.SGD(module.parameters(), lr=0.1),
        num_samples=4,
    )  # fmt: skip
    before = optimizer.step(closure_for(module, digits, optimizer))
    assert optimizer.last.kept == 2
    assert torch.equal(module_params(module, pipe.layout), good[1])
    assert optimizer.last.loss_before == float(before)
    assert optimizer.last.sample_losses[2] == float(closure_for(module, digits)())
    assert math.isnan(optimizer.last.sample_losses[1])


def test_without_the_guard_a_worse_sample_is_kept(random_pipeline, digits):
    worse = bad(random_pipeline.layout)
    module = fresh()
    fallback = torch.optim.SGD(module.parameters(), lr=0.1)
    optimizer = UpdateOptimizer(module, Oracle(random_pipeline, [worse]), fallback, guard=False)
    optimizer.step(closure_for(module, digits, optimizer))
    assert torch.equal(module_params(module, random_pipeline.layout), worse)
    assert all(p.grad is None for p in module.parameters()), "the old gradients would belong to other weights"


def test_what_the_pipeline_is_asked(random_pipeline, digits):
    module = fresh()
    start = module_params(module, random_pipeline.layout)
    fallback = torch.optim.SGD(module.parameters(), lr=0.1)
    oracle = Oracle(random_pipeline, [start, start], [start, start])
    UpdateOptimizer(module, oracle, fallback, prompted_metric=0.3, num_samples=2).step(closure_for(module, digits))
    ((starts, prompt, metric),) = oracle.asked
    assert torch.equal(starts, start.expand(2, -1))
    assert prompt == 0.3
    assert metric == pytest.approx(digits.evaluate(start[None], "validation")["loss"].item())
    write_module(module, start, random_pipeline.layout)
    UpdateOptimizer(module, oracle, fallback, measure=lambda m: 1.25, num_samples=2).step(closure_for(module, digits))
    assert oracle.asked[1][1:] == (0.1, 1.25), "the attainable range's best, and the metric that was given"


def test_a_task_that_is_not_at_hand_leaves_the_closures_loss_as_metric(random_pipeline, digits, tmp_path):
    random_pipeline.register_to_config(task="nobody-knows")
    module = fresh()
    start = module_params(module, random_pipeline.layout)
    asked = []
    call = random_pipeline.__class__.__call__

    class Noting:
        layout, metric, config = random_pipeline.layout, random_pipeline.metric, random_pipeline.config
        facts = random_pipeline.facts

        @property
        def task(self):
            return random_pipeline.task

        def __call__(self, starts, prompt, starting, **options):
            asked.append(starting)
            return call(random_pipeline, starts, prompt, starting, **options)

    optimizer = UpdateOptimizer(module, Noting(), torch.optim.SGD(module.parameters(), lr=0.1))
    loss = optimizer.step(closure_for(module, digits, optimizer))
    assert asked == [float(loss)]
    assert not torch.equal(start, module_params(module, random_pipeline.layout))


def test_a_model_of_another_metric_wants_to_be_told_how_it_is_measured(digits):
    errors = type(digits)()
    errors.metrics = {"error": digits.metrics["error"]}
    pipeline = build_pipeline(errors)
    pipeline.register_to_config(task="nobody-knows")
    module = fresh()
    sgd = torch.optim.SGD(module.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"give measure=.* its error"):
        UpdateOptimizer(module, pipeline, sgd)
    optimizer = UpdateOptimizer(module, pipeline, sgd, measure=lambda m: 88.0)
    assert float(optimizer.step(closure_for(module, digits, optimizer))) > 2


def test_patience_ends_the_sampling(random_pipeline, digits):
    worse = bad(random_pipeline.layout)
    module = fresh()
    oracle = Oracle(random_pipeline, *([worse],) * 9)
    optimizer = UpdateOptimizer(module, oracle, torch.optim.SGD(module.parameters(), lr=0.1), patience=2)
    for _ in range(5):
        optimizer.step(closure_for(module, digits, optimizer))
    assert len(oracle.asked) == 2
    assert optimizer.last.sample_losses == ()


def test_schedulers_and_state_are_the_wrapped_optimizers(random_pipeline, digits):
    randomise(random_pipeline.transformer)
    module = fresh()
    optimizer = UpdateOptimizer(module, random_pipeline, torch.optim.Adam(module.parameters(), lr=0.1), num_samples=2)
    assert isinstance(optimizer, torch.optim.Optimizer)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    for _ in range(3):
        optimizer.step(closure_for(module, digits, optimizer))
        schedule.step()
    assert optimizer.fallback.param_groups[0]["lr"] == pytest.approx(0.0125)
    saved, weights = optimizer.state_dict(), {k: v.clone() for k, v in module.state_dict().items()}
    assert set(saved) == {"state", "param_groups", "updates"}
    torch.save(saved, buffer := __import__("io").BytesIO())
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)

    def three_more(module, optimizer):
        return [float(optimizer.step(closure_for(module, digits, optimizer))) for _ in range(3)]

    expected = three_more(module, optimizer)
    other = fresh(seed=9)
    other.load_state_dict(weights)
    resumed = UpdateOptimizer(other, random_pipeline, torch.optim.Adam(other.parameters(), lr=0.7), num_samples=2)
    resumed.load_state_dict(saved)
    assert resumed.param_groups is resumed.fallback.param_groups
    assert three_more(other, resumed) == expected, "the sampling noise goes on too"
    assert (resumed.num_kept, resumed.num_refused) == (optimizer.num_kept, optimizer.num_refused)
    plain = torch.optim.Adam(other.parameters(), lr=0.3)
    resumed.load_state_dict(plain.state_dict())
    assert resumed.param_groups[0]["lr"] == 0.3


def test_what_makes_no_sense_is_refused(random_pipeline, digits):
    module = fresh()
    sgd = torch.optim.SGD(module.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="step needs a closure"):
        UpdateOptimizer(module, random_pipeline, sgd).step()
    with pytest.raises(ValueError, match="closure must return its loss"):
        UpdateOptimizer(module, random_pipeline, sgd).step(lambda: None)
    with pytest.raises(ValueError, match="num_samples and patience must be at least 1"):
        UpdateOptimizer(module, random_pipeline, sgd, num_samples=0)
    with pytest.raises(ValueError, match="Linear is not a network of this model"):
        UpdateOptimizer(nn.Linear(2, 2), random_pipeline, sgd)
    random_pipeline.register_to_config(training={})
    with pytest.raises(ValueError, match="give prompted_metric="):
        UpdateOptimizer(module, random_pipeline, sgd)


def test_a_network_that_diverged_takes_the_wrapped_optimizers_step(random_pipeline, digits):
    module = fresh()
    with torch.no_grad():
        module.fc1.bias[0] = math.inf
    optimizer = UpdateOptimizer(module, random_pipeline, torch.optim.SGD(module.parameters(), lr=0.1))
    optimizer.step(closure_for(module, digits, optimizer))
    assert optimizer.last.kept is None
    assert optimizer.last.sample_losses == ()
