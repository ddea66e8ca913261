import pytest
import torch
from torch import nn

from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import AxisBlock, PermutationSpec
from g_pt.tasks.mlp import mlp

WIDTHS = [(5, 8, 3), (5, 8, 6, 3), (4, 7, 7, 9, 2)]


def outputs(network, layout, params, inputs):
    return torch.stack([torch.func.functional_call(network, layout.unflatten(p), (inputs,)) for p in params])


@pytest.mark.parametrize("widths", WIDTHS)
def test_permuted_networks_compute_the_same_function(widths, generator):
    network = mlp(widths).double()
    layout, spec = ParameterLayout.from_module(network), PermutationSpec.from_module(network, widths[:1])
    params = torch.randn(4, layout.num_params, generator=generator, dtype=torch.float64)
    inputs = torch.randn(16, widths[0], generator=generator, dtype=torch.float64)
    permuted = spec.permute(params, layout, spec.draw(layout, 4, generator))
    assert (permuted != params).any(dim=1).all()  # the permutations are not the identity
    assert torch.equal(permuted.sort(dim=1).values, params.sort(dim=1).values)
    gap = outputs(network, layout, permuted, inputs) - outputs(network, layout, params, inputs)
    assert gap.abs().max() <= 1e-10


@pytest.mark.parametrize("widths", WIDTHS)
def test_every_hidden_layer_is_a_group_and_inputs_and_outputs_are_fixed(widths):
    network = mlp(widths)
    spec = PermutationSpec.from_module(network, widths[:1])
    sizes = spec.group_sizes(ParameterLayout.from_module(network))
    assert list(sizes.values()) == list(widths[1:-1])
    assert spec.axes["fc1.weight"][1] is None
    assert spec.axes[f"fc{len(widths) - 1}.bias"] == (None,)


def test_permuting_by_hand(generator):
    layout = ParameterLayout(("w1", "b1", "w2", "b2"), ((2, 1), (2,), (1, 2), (1,)))
    spec = PermutationSpec({"w1": ("h", None), "b1": ("h",), "w2": (None, "h"), "b2": (None,)})
    params = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7]])
    permuted = spec.permute(params, layout, {"h": torch.tensor([[1, 0]])})
    assert permuted.tolist() == [[2, 1, 4, 3, 6, 5, 7]]


def test_the_inverse_permutation_undoes_and_two_in_a_row_compose(generator):
    network = mlp((3, 6, 5, 2))
    layout, spec = ParameterLayout.from_module(network), PermutationSpec.from_module(network, (3,))
    params = torch.randn(5, layout.num_params, generator=generator)
    first, second = spec.draw(layout, 5, generator), spec.draw(layout, 5, generator)
    once = spec.permute(params, layout, first)
    inverse = {group: perm.argsort(dim=1) for group, perm in first.items()}
    assert torch.equal(spec.permute(once, layout, inverse), params)
    both = {group: first[group].gather(1, second[group]) for group in first}
    assert torch.equal(spec.permute(once, layout, second), spec.permute(params, layout, both))


def test_draws_are_permutations_and_uniform(generator):
    layout = ParameterLayout(("bias",), ((3,),))
    draws = PermutationSpec({"bias": ("h",)}).draw(layout, 6000, generator)["h"]
    assert torch.equal(draws.sort(dim=1).values, torch.arange(3).expand(6000, 3))
    counts = (draws @ torch.tensor([9, 3, 1])).unique(return_counts=True)[1]
    assert len(counts) == 6
    chi_squared = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_squared < 20.5  # 5 degrees of freedom: exceeded once in 1,000


def test_a_network_without_hidden_units_stays_as_it_is(generator):
    network = mlp((4, 3))
    layout, spec = ParameterLayout.from_module(network), PermutationSpec.from_module(network, (4,))
    params = torch.randn(5, layout.num_params, generator=generator)
    assert torch.equal(spec.permute(params, layout, spec.draw(layout, 5, generator)), params)


def test_one_permutation_for_many_networks_keeps_all_of_them(generator):
    network = mlp((3, 6, 2))
    layout, spec = ParameterLayout.from_module(network), PermutationSpec.from_module(network, (3,))
    params = torch.randn(5, layout.num_params, generator=generator)
    shared = spec.draw(layout, 1, generator)
    separate = {group: perm.expand(5, -1) for group, perm in shared.items()}
    assert torch.equal(spec.permute(params, layout, shared), spec.permute(params, layout, separate))


def test_a_spec_that_changes_the_function_is_refused():
    network = mlp((5, 8, 3))
    wrong = PermutationSpec(
        {"fc1.weight": ("h", None), "fc1.bias": (None,), "fc2.weight": (None, "h"), "fc2.bias": (None,)}
    )
    with pytest.raises(ValueError, match="changes the outputs"):
        wrong.verify(network, (5,))


def test_layers_without_bias_and_with_other_activations(generator):
    network = nn.Sequential(nn.Linear(5, 8, bias=False), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))
    assert PermutationSpec.from_module(network, (5,)).axes["3.weight"] == (None, "0.units")


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"w": ("h", None)}, "the layout"),
        ({"w": ("h",), "b": ("h",)}, "needs 2 axis groups"),
        ({"w": (None, "h"), "b": ("h",)}, "'h' has 2 units elsewhere, but 3 in 'b'"),
    ],
)
def test_a_spec_that_does_not_fit_the_layout_is_refused(axes, message):
    layout = ParameterLayout(("w", "b"), ((3, 2), (3,)))
    with pytest.raises(ValueError, match=message):
        PermutationSpec(axes).group_sizes(layout)


def flattened_maps():
    """A convolution to 3 maps of 2 x 2, flattened into a linear layer, with its spec by hand."""
    network = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    maps = (AxisBlock("maps", 3, 4),)
    axes = {"0.weight": ("maps", None, None, None), "0.bias": ("maps",), "3.weight": (None, maps), "3.bias": (None,)}
    return network, axes


def test_a_spec_by_hand_with_blocks():
    network, axes = flattened_maps()
    spec, layout = PermutationSpec(axes), ParameterLayout.from_module(network)
    spec.verify(network, (1, 3, 3))
    assert spec.group_sizes(layout) == {"maps": 3}
    assert spec == PermutationSpec(
        {
            name: tuple("maps" if a == "0.units" else a for a in axis)
            if name != "3.weight"
            else (None, (AxisBlock("maps", 3, 4),))
            for name, axis in PermutationSpec.from_module(network, (1, 3, 3)).axes.items()
        }
    )


def test_a_wrong_inner_size_is_refused():
    network, axes = flattened_maps()
    interleaved = axes | {"3.weight": (None, (AxisBlock("maps", 3, 1),) * 4)}
    with pytest.raises(ValueError, match="changes the outputs"):
        PermutationSpec(interleaved).verify(network, (1, 3, 3))


def test_permuting_blocks_by_hand():
    layout = ParameterLayout(("w", "b"), ((1, 7), (2,)))
    spec = PermutationSpec({"w": (None, (AxisBlock("h", 2, 2), AxisBlock(None, 1), AxisBlock("h", 2))), "b": ("h",)})
    params = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 9]])
    swap = torch.tensor([[1, 0]])
    assert spec.permute(params, layout, {"h": swap}).tolist() == [[3, 4, 1, 2, 5, 7, 6, 9, 8]]
    both = spec.permute(params.expand(2, -1), layout, {"h": torch.tensor([[0, 1], [1, 0]])})
    assert both.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 4, 1, 2, 5, 7, 6, 9, 8]]


def test_blocks_fill_in_every_size():
    layout = ParameterLayout(("w", "b"), ((2, 7), (2,)))
    mixed = (AxisBlock("h", 2, 3), AxisBlock(None, 1))
    spec = PermutationSpec({"w": (None, mixed), "b": ("h",)})
    assert spec.blocks(layout) == {"w": ((AxisBlock(None, 2, 1),), mixed), "b": ((AxisBlock("h", 2, 1),),)}


def test_without_groups_every_axis_is_fixed(generator):
    network, _ = flattened_maps()
    layout = ParameterLayout.from_module(network)
    spec = PermutationSpec.none(layout)
    params = torch.randn(3, layout.num_params, generator=generator)
    assert spec.group_sizes(layout) == {}
    assert torch.equal(spec.permute(params, layout, spec.draw(layout, 3, generator)), params)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ((AxisBlock("h", 2, 3),), "axis 1 of 'w' has 7 entries, .*have 6"),
        ((AxisBlock("h", 7, 1),), "'h' has 7 units elsewhere, but 2 in 'b'"),
        ((AxisBlock("h", 2, 3), AxisBlock("i", 1), AxisBlock("h", 0)), "axis 1 of 'w'"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(blocks, message):
    layout = ParameterLayout(("w", "b"), ((2, 7), (2,)))
    with pytest.raises(ValueError, match=message):
        PermutationSpec({"w": (None, blocks), "b": ("h",)}).blocks(layout)


def test_a_group_of_tensors_that_no_output_depends_on_is_noted():
    network = mlp((4, 3))
    network.register_parameter("idle", nn.Parameter(torch.zeros(5)))
    axes = {name: (None,) * tensor.dim() for name, tensor in network.state_dict().items()}
    with pytest.warns(UserWarning, match="group 'loose'"):
        PermutationSpec(axes | {"idle": ("loose",)}).verify(network, (4,))


def test_running_variances_stay_positive_in_the_check():
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    axes = dict(PermutationSpec.from_module(network, (4,)).axes)
    for name in ("1.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert axes[name] == ("0.units",)
        with pytest.raises(ValueError, match="changes the outputs"):
            PermutationSpec(axes | {name: (None,)}).verify(network, (4,))


def test_one_of_shape_and_example_is_needed():
    with pytest.raises(ValueError, match="either input_shape"):
        PermutationSpec.from_module(mlp((4, 3)))
    with pytest.raises(ValueError, match="either input_shape"):
        PermutationSpec.from_module(mlp((4, 3)), (4,), example_input=torch.zeros(2, 4))


def test_plain_axes_are_written_as_before_blocks():
    spec = PermutationSpec({"w": ("h", None), "v": (None, (AxisBlock("h", 2, 3), AxisBlock(None, 1)))})
    assert spec.to_json() == {"w": ["h", None], "v": [None, [["h", 2, 3], [None, 1, 1]]]}


def test_json_round_trip():
    import json

    spec = PermutationSpec.from_module(mlp((3, 6, 5, 2)), (3,))
    assert PermutationSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
