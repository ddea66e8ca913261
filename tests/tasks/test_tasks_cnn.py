import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from g_pt.networks.parameters import ParameterLayout
from g_pt.tasks.classification import LabelledExamples, cross_entropy
from g_pt.tasks.cnn import CNNTask, cnn, cnn_forward, cnn_init

SHAPES = [(1, 28, 28), (3, 32, 32), (2, 7, 9)]


class RandomImages(CNNTask):
    """Networks on 150 random images, more than evaluation takes at once."""

    name = "random-images"
    input_shape = (3, 8, 8)

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        images = torch.randn(150, *self.input_shape, generator=generator)
        labels = torch.randint(10, (150,), generator=generator)
        self.splits = {split: LabelledExamples(images, labels) for split in ("train", "validation", "test")}


def networks(num_channels: int, num: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    layout = ParameterLayout.from_module(cnn(num_channels))
    params = 2 * cnn_init(layout, num, torch.Generator().manual_seed(0))
    return {name: t.to(dtype).requires_grad_() for name, t in layout.unflatten(params).items()}


def alone(tensors: dict[str, torch.Tensor], b: int, inputs: torch.Tensor) -> torch.Tensor:
    """Logits (N, 10) of one network by its module."""
    module = cnn(inputs.shape[1]).to(inputs.dtype)
    return torch.func.functional_call(module, {name: t[b] for name, t in tensors.items()}, (inputs,))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("shape", SHAPES)
def test_many_networks_at_once_equal_one_module_each(shape, dtype, tolerance, generator):
    tensors = networks(shape[0], 3, dtype)
    inputs = torch.randn(5, *shape, generator=generator).to(dtype)
    together = cnn_forward(tensors, inputs)
    assert together.shape == (3, 10, 5)
    for b in range(3):
        torch.testing.assert_close(together[b].T, alone(tensors, b, inputs), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_those_of_one_module_each(shape, dtype, tolerance, generator):
    tensors = networks(shape[0], 3, dtype)
    inputs, labels = torch.randn(5, *shape, generator=generator).to(dtype), torch.tensor([0, 9, 3, 3, 1])
    weights = torch.tensor([1.0, 0.0, 2.0])  # of the three losses: gradients are those of a sum over networks
    together = torch.autograd.grad(
        (weights * cross_entropy(cnn_forward(tensors, inputs), labels)).sum(), tensors.values()
    )
    losses = torch.stack([F.cross_entropy(alone(tensors, b, inputs), labels) for b in range(3)])
    expected = torch.autograd.grad((weights * losses).sum(), tensors.values())
    for ours, theirs in zip(together, expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item())


def test_autocast_computes_nearly_the_same_and_keeps_the_dtype(generator):
    tensors, inputs = networks(3, 4), torch.randn(64, 3, 16, 16, generator=generator)
    labels = torch.randint(10, (64,), generator=generator)
    exact = cnn_forward(tensors, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rough = cnn_forward(tensors, inputs)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.02 * exact.abs().max()
    gradients = [torch.autograd.grad(cross_entropy(x, labels).sum(), tensors.values()) for x in (exact, rough)]
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).norm() < 0.1 * theirs.norm()


@pytest.mark.parametrize(("num_channels", "size"), [(3, 5370), (1, 5082)])
def test_sizes_and_names_are_the_papers(num_channels, size):
    layout = ParameterLayout.from_module(cnn(num_channels))
    assert layout.num_params == size
    assert layout.names == ("conv1.weight", "conv2.weight", "fc.weight", "fc.bias")


def test_initial_values_are_distributed_as_those_of_pytorch(generator):
    layout = ParameterLayout.from_module(cnn(3))
    torch.manual_seed(0)
    theirs = layout.unflatten(torch.stack([layout.flatten(cnn(3).state_dict()) for _ in range(100)]))
    ours = layout.unflatten(cnn_init(layout, 100, generator))
    for name, fan_in in zip(layout.names, (27, 144, 32, 32), strict=True):
        assert ours[name].abs().max() <= 1 / math.sqrt(fan_in)
        samples = [tensors[name].flatten()[:20_000].numpy() for tensors in (ours, theirs)]
        assert stats.ks_2samp(*samples).pvalue > 1e-3


def test_the_generator_decides_and_networks_differ():
    layout = ParameterLayout.from_module(cnn(1))
    first, again, other = (cnn_init(layout, 2, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_evaluate_equals_a_plain_loop(generator):
    task = RandomImages()
    params = 3 * task.init(70, generator)  # more than evaluation takes at once
    measured = task.evaluate(params)
    examples = task.splits["test"]
    for i in (0, 1, 63, 64, 69):
        network = task.network()
        network.load_state_dict(task.layout.unflatten(params[i]))
        logits = network(examples.inputs)
        wrong = (logits.argmax(dim=1) != examples.labels).float().mean()
        assert measured["loss"][i].item() == pytest.approx(F.cross_entropy(logits, examples.labels).item(), rel=1e-5)
        assert measured["error"][i].item() == pytest.approx(100 * wrong.item(), abs=1e-4)


def test_reordering_channels_leaves_the_function(generator):
    task = RandomImages()
    spec = task.permutations  # verified in float64 where it is made
    assert spec.group_sizes(task.layout) == {"conv1.units": 16, "conv2.units": 32}
    params = task.init(3, generator)
    permuted = spec.permute(params, task.layout, spec.draw(task.layout, 3, generator))
    assert not torch.equal(params, permuted)
    before, after = task.evaluate(params), task.evaluate(permuted)
    torch.testing.assert_close(after["loss"], before["loss"], rtol=1e-5, atol=1e-5)


def test_stepping_down_the_gradient_lowers_the_loss(generator):
    task = RandomImages()
    params = task.init(4, generator).requires_grad_()
    everything = torch.arange(task.num_examples)
    before = task.training_losses(task.layout.unflatten(params), everything)
    (gradient,) = torch.autograd.grad(before.sum(), params)
    after = task.training_losses(task.layout.unflatten(params - 0.1 * gradient), everything)
    assert (after < before).all()
