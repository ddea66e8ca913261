"""The defaults of SupervisedTask: many networks at once equal PyTorch's modules one by one, BatchNorm included."""

import copy

import pytest
import torch
import torch.nn.functional as F
from blobs import Blobs
from torch import nn

from g_pt.tasks import supervised
from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.examples import LabelledExamples, split_examples
from g_pt.tasks.regression import RegressionTask, mean_squared_error
from g_pt.tasks.supervised import SupervisedTask


class Images(ClassificationTask):
    name = "small-images"
    splits = split_examples(torch.randn(90, 2, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(90) % 3)

    def network(self):
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.LayerNorm(4), nn.Linear(4, 3),
        )  # fmt: skip


class Line(RegressionTask):
    name = "line"
    splits = split_examples(torch.linspace(-1, 1, 100)[:, None], torch.linspace(-3, 3, 100))

    def network(self):
        return nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))


class Noisy(Blobs):
    def network(self):
        return nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5), nn.Linear(50, 2))


TASKS = [Blobs, Images, Line]


def module_of(task, row):
    module = task.network()
    module.load_state_dict(task.layout.unflatten(row), strict=False)  # integer counters are not in the vector
    return module.eval()


def plain_loss(task, module, examples):
    outputs = module(examples.inputs)
    if isinstance(task, RegressionTask):
        return F.mse_loss(outputs[:, 0], examples.labels)
    return F.cross_entropy(outputs, examples.labels)


def trained_a_little(task, generator, num=3):
    """Parameters of networks whose weights and running statistics are no longer those of a fresh module."""
    tensors = {n: t.clone() for n, t in task.layout.unflatten(task.init(num, generator)).items()}
    trained = [tensors[name].requires_grad_() for name in task.trained_names]
    for _ in range(20):
        grads = torch.autograd.grad(task.training_losses(tensors, torch.arange(40)).sum(), trained)
        with torch.no_grad():
            for tensor, grad in zip(trained, grads, strict=True):
                tensor -= 0.2 * grad
    return task.layout.flatten(tensors).detach()


@pytest.mark.parametrize("make", TASKS)
def test_evaluate_equals_each_module_in_evaluation_mode(make, generator):
    task = make()
    params = trained_a_little(task, generator)
    for split, examples in task.splits.items():
        measured = task.evaluate(params, split)["loss"]
        expected = [plain_loss(task, module_of(task, row), examples) for row in params]
        torch.testing.assert_close(measured, torch.stack(expected).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", TASKS)
def test_training_equals_each_module_in_training_mode(make, generator):
    task, rows = make(), torch.arange(5, 37)
    params = trained_a_little(task, generator)
    tensors = {name: tensor.clone() for name, tensor in task.layout.unflatten(params).items()}
    trained = [tensors[name].requires_grad_() for name in task.trained_names]
    losses = task.training_losses(tensors, rows)
    grads = dict(zip(task.trained_names, torch.autograd.grad(losses.sum(), trained), strict=True))
    train = task.splits["train"]
    for i, row in enumerate(params):
        module = module_of(task, row).train()
        loss = plain_loss(task, module, LabelledExamples(train.inputs[rows], train.labels[rows]))
        loss.backward()
        torch.testing.assert_close(losses[i], loss, rtol=1e-5, atol=1e-6)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(grads[name][i], parameter.grad, rtol=1e-4, atol=1e-5)
        for name in set(task.layout.names) - set(task.trained_names):
            torch.testing.assert_close(tensors[name][i], module.state_dict()[name], rtol=1e-5, atol=1e-6)
            assert not torch.equal(tensors[name][i], task.layout.unflatten(row)[name])


def test_buffers_and_frozen_parameters_are_not_trained():
    task = Blobs()
    buffers = {"1.running_mean", "1.running_var"}
    assert set(task.layout.names) - set(task.trained_names) == buffers

    class Frozen(Blobs):
        def network(self):
            network = super().network()
            network[0].requires_grad_(False)
            return network

    assert set(Frozen().layout.names) - set(Frozen().trained_names) == buffers | {"0.weight", "0.bias"}


def test_the_template_is_never_moved_by_training(generator):
    task = Blobs()
    before = copy.deepcopy(task.template.state_dict())
    trained_a_little(task, generator)
    assert all(torch.equal(value, before[name]) for name, value in task.template.state_dict().items())
    assert not any(layer.training for layer in task.template.modules())


def test_dropout_acts_in_training_only_and_on_each_network_by_itself(generator):
    task = Noisy()
    tensors = task.layout.unflatten(task.init(1, generator).expand(4, -1))
    torch.manual_seed(3)
    losses = task.training_losses(tensors, torch.arange(20))
    assert len(losses.unique()) == 4
    torch.manual_seed(3)
    assert torch.equal(task.training_losses(tensors, torch.arange(20)), losses)
    assert len(task.evaluate(task.layout.flatten(tensors))["loss"].unique()) == 1


@pytest.mark.parametrize("make", TASKS)
def test_networks_start_as_the_module_does_and_the_generator_decides(make):
    task = make()
    torch.manual_seed(9)
    state = torch.get_rng_state()
    first, again, other = (make().init(4, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert len(torch.cat([first, other]).unique(dim=0)) == 8
    assert (first.shape, first.dtype) == ((4, task.layout.num_params), torch.float32)
    if make is Blobs:
        assert (task.layout.unflatten(first)["1.running_var"] == 1).all()


def test_a_network_is_initialised_as_the_module(generator):
    task = Line()
    weights = task.layout.unflatten(task.init(500, generator))["2.weight"]
    bound = 6**-0.5
    assert weights.abs().max() <= bound
    assert weights.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_recalibration_brings_spoilt_statistics_back(generator):
    task = Blobs()
    params = task.recalibrate(trained_a_little(task, generator))
    good = task.evaluate(params)["loss"]
    tensors = {name: tensor.clone() for name, tensor in task.layout.unflatten(params).items()}
    tensors["1.running_mean"] += 20
    tensors["1.running_var"][1] = -1  # as an update may sample it: no finite output
    tensors["1.running_var"][2] = torch.nan
    spoilt = task.layout.flatten(tensors)
    assert (~(task.evaluate(spoilt)["loss"] < 1.5 * good)).all()
    repaired = task.recalibrate(spoilt)
    assert torch.equal(repaired, params)
    assert torch.equal(spoilt.nan_to_num(), task.layout.flatten(tensors).nan_to_num()), "not in place"
    hidden = task.splits["train"].inputs @ tensors["0.weight"][0].T + tensors["0.bias"][0]
    statistics = task.layout.unflatten(repaired[0])
    torch.testing.assert_close(statistics["1.running_mean"], hidden.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(statistics["1.running_var"], hidden.var(0), rtol=1e-5, atol=1e-5)


def test_recalibration_leaves_everything_else_as_it_was(generator, monkeypatch):
    task = Images()
    params = trained_a_little(task, generator, num=5)
    whole = task.recalibrate(params)
    before, after = task.layout.unflatten(params), task.layout.unflatten(whole)
    assert all(torch.equal(before[name], after[name]) for name in task.trained_names)
    monkeypatch.setattr(supervised, "EVALUATION_FLOATS", 1)
    torch.testing.assert_close(task.recalibrate(params), whole, rtol=1e-5, atol=1e-6)
    assert task.template[1].momentum == 0.1
    assert not task.template[1].training
    plain = Line()
    params = plain.init(2, generator)
    assert plain.recalibrate(params) is params


def test_evaluating_in_chunks_changes_nothing(generator, monkeypatch):
    task = Images()
    params = trained_a_little(task, generator, num=7)
    whole = task.evaluate(params)
    for floats, most in [(1, 1 << 25), (4 * 16 * 18 * 3, 1 << 25), (1, 1), (1, 4 * 16 * 5)]:
        monkeypatch.setattr(supervised, "EVALUATION_FLOATS", floats)
        monkeypatch.setattr(supervised, "MAX_FLOATS", most)
        for name, values in Images().evaluate(params).items():
            torch.testing.assert_close(values, whole[name], rtol=1e-6, atol=1e-6)


def test_the_largest_activation_is_what_is_counted():
    assert Images()._floats_per_example == 4 * 4 * 4
    assert Line()._floats_per_example == 6


def test_squared_errors_equal_pytorch(generator):
    outputs = torch.randn(4, 3, 10, generator=generator)
    labels = torch.randn(10, 3, generator=generator)
    expected = torch.stack([F.mse_loss(one.T, labels) for one in outputs])
    torch.testing.assert_close(mean_squared_error(outputs, labels), expected)
    torch.testing.assert_close(
        mean_squared_error(outputs[:, :1], labels[:, 0]), mean_squared_error(outputs[:, 0], labels[:, :1])
    )
    with pytest.raises(ValueError, match=r"must predict 1 number\(s\) for each example, as the labels have, got 3"):
        mean_squared_error(outputs, labels[:, 0])


def test_the_error_of_a_regression_is_in_the_unit_of_the_labels(generator):
    task = Line()
    measured = task.evaluate(task.init(3, generator))
    torch.testing.assert_close(measured["error"] ** 2, measured["loss"])


def test_the_permutations_are_derived_from_the_module():
    assert list(Line().permutations.group_sizes(Line().layout).values()) == [6]


def with_network(make_network):
    return type("Odd", (Blobs,), {"network": lambda self: make_network()})()


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


class Counting(nn.Linear):
    def forward(self, x):
        return super().forward(x) if self.weight.sum().item() > 0 else super().forward(-x)


class Pooling(nn.Linear):
    def forward(self, x):
        return super().forward(x).mean(0, keepdim=True)


@pytest.mark.parametrize(
    ("make_network", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, momentum=None)), r"'1' .*momentum=None.*such as 0.1"),
        (lambda: Pair(3, 2), "must return one tensor .*, got tuple"),
        (lambda: Pooling(3, 2), r"one row per example, got \(1, 2\) for 60 examples"),
    ],
)
def test_networks_that_cannot_be_stacked_are_refused(make_network, message):
    task = with_network(make_network)
    with pytest.raises(ValueError, match=message):
        task.evaluate(torch.zeros(2, task.layout.num_params))


def test_a_network_that_vmap_cannot_run_says_what_to_do(generator):
    task = with_network(lambda: Counting(3, 2))
    with pytest.raises(RuntimeError) as caught:
        task.evaluate(task.init(2, generator))
    assert "override `forward` with a loop" in caught.value.__notes__[0]


def test_examples_are_split_at_random_into_disjoint_parts():
    inputs = torch.arange(50.0)[:, None]
    splits = split_examples(inputs, inputs[:, 0], held_out=0.1)
    assert {split: len(examples) for split, examples in splits.items()} == {"train": 40, "validation": 5, "test": 5}
    together = torch.cat([examples.inputs for examples in splits.values()])[:, 0]
    assert torch.equal(together.sort().values, inputs[:, 0])
    assert not torch.equal(together, inputs[:, 0])
    for examples in splits.values():
        assert torch.equal(examples.inputs[:, 0], examples.labels)
    again = split_examples(inputs.numpy(), inputs[:, 0].numpy(), held_out=0.1)
    assert torch.equal(again["test"].inputs, splits["test"].inputs)
    other = split_examples(inputs, inputs[:, 0], held_out=0.1, seed=1)
    assert not torch.equal(other["test"].inputs, splits["test"].inputs)


def test_labels_keep_their_kind():
    assert split_examples(torch.zeros(10, 1, dtype=torch.float64), [0, 1] * 5)["train"].labels.dtype == torch.int64
    assert (
        split_examples(torch.zeros(10, 1), torch.zeros(10, dtype=torch.float64))["train"].labels.dtype == torch.float32
    )


def test_splits_without_examples_and_labels_without_inputs_are_refused():
    for num, held_out in [(4, 0.2), (10, 0.5)]:
        with pytest.raises(
            ValueError, match=rf"each split needs an example, got {num} examples and held_out = {held_out}"
        ):
            split_examples(torch.zeros(num, 1), torch.zeros(num), held_out=held_out)
    with pytest.raises(ValueError, match="got 3 inputs and 2 labels"):
        LabelledExamples(torch.zeros(3, 1), torch.zeros(2))


def test_an_own_forward_serves_training_and_evaluation(generator):
    class Doubled(Line):
        def forward(self, tensors, inputs):
            return 2 * super().forward(tensors, inputs)

    task = Doubled()
    params = task.init(2, generator)
    outputs = 2 * SupervisedTask.forward(Line(), task.layout.unflatten(params), task.splits["train"].inputs)
    expected = mean_squared_error(outputs, task.splits["train"].labels)
    torch.testing.assert_close(task.evaluate(params, "train")["loss"], expected)
    everything = torch.arange(task.num_examples)
    torch.testing.assert_close(task.training_losses(task.layout.unflatten(params), everything), expected)


def test_the_distance_of_outputs_is_that_of_the_modules_and_has_a_gradient(generator):
    task, examples = Line(), torch.tensor([3, 0, 7])
    params, others = (trained_a_little(task, generator) for _ in range(2))
    params.requires_grad_()
    distances = task.output_distance(params, others, examples)
    inputs = task.splits["train"].inputs[examples]
    with torch.no_grad():
        gaps = [module_of(task, a)(inputs) - module_of(task, b)(inputs) for a, b in zip(params, others, strict=True)]
    torch.testing.assert_close(distances, torch.stack([gap.square().mean() for gap in gaps]))
    (gradient,) = torch.autograd.grad(distances.sum(), params)
    assert gradient.norm() > 0
