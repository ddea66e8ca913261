import math

import pytest
import torch
from scipy import stats

from g_pt.networks.parameters import ParameterLayout
from g_pt.tasks.mlp import mlp, mlp_forward, mlp_init

WIDTHS = [(4, 3), (5, 7, 3), (64, 16, 10), (3, 8, 1, 6, 2)]


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("num_networks", [1, 6])
def test_many_networks_at_once_equal_one_module_each(widths, num_networks, generator):
    network = mlp(widths).double()
    layout = ParameterLayout.from_module(network)
    params = torch.randn(num_networks, layout.num_params, generator=generator, dtype=torch.float64)
    inputs = torch.randn(11, widths[0], generator=generator, dtype=torch.float64)
    together = mlp_forward(layout.unflatten(params), inputs)
    assert together.shape == (num_networks, widths[-1], 11)
    for outputs, row in zip(together, params, strict=True):
        alone = torch.func.functional_call(network, layout.unflatten(row), (inputs,))
        torch.testing.assert_close(outputs.T, alone, rtol=1e-12, atol=1e-12)


def test_gradients_equal_those_of_one_module(generator):
    network = mlp((4, 5, 3)).double()
    layout = ParameterLayout.from_module(network)
    params = layout.flatten(network.state_dict()).detach().repeat(2, 1).requires_grad_()
    inputs = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    mlp_forward(layout.unflatten(params), inputs).square().sum().backward()
    network(inputs).square().sum().backward()
    alone = layout.flatten({name: p.grad for name, p in network.named_parameters()})
    torch.testing.assert_close(params.grad, alone.expand(2, -1), rtol=1e-12, atol=1e-12)


def test_layers_are_named_in_order_with_relu_only_between():
    assert list(dict(mlp((4, 3, 2, 1)).named_children())) == ["fc1", "relu1", "fc2", "relu2", "fc3"]


@pytest.mark.parametrize("widths", WIDTHS)
def test_initial_values_are_uniform_up_to_one_over_root_fan_in(widths, generator):
    layout = ParameterLayout.from_module(mlp(widths))
    tensors = layout.unflatten(mlp_init(layout, 2000, generator))
    for layer, fan_in in enumerate(widths[:-1], start=1):
        bound = 1 / math.sqrt(fan_in)
        for kind in ("weight", "bias"):
            values = tensors[f"fc{layer}.{kind}"]
            assert values.abs().max() <= bound
            uniform = stats.uniform(-bound, 2 * bound)
            assert stats.kstest(values.flatten()[:20_000].numpy(), uniform.cdf).pvalue > 1e-3


def test_initial_values_are_distributed_as_those_of_pytorch(generator):
    network = mlp((9, 4, 3))
    layout = ParameterLayout.from_module(network)
    torch.manual_seed(0)
    theirs = layout.unflatten(torch.stack([layout.flatten(mlp((9, 4, 3)).state_dict()) for _ in range(400)]))
    ours = layout.unflatten(mlp_init(layout, 400, generator))
    for name in layout.names:
        assert stats.ks_2samp(ours[name].flatten().numpy(), theirs[name].flatten().numpy()).pvalue > 1e-3


def test_networks_are_independent_and_the_generator_decides():
    layout = ParameterLayout.from_module(mlp((9, 4, 3)))
    first, again, other = (mlp_init(layout, 3, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).all(dim=1).any()
    assert len(first.unique(dim=0)) == 3
