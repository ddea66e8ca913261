"""Specs derived from networks of many architectures keep the function and find the groups written out by hand."""

import json

import pytest
import torch
import torch.nn.functional as F
from applied import Applied, set_entries, written
from torch import nn
from zoo import GROUPS, ZOO
from zoo_attention import SelfAttention

from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import AxisBlock, PermutationSpec


@pytest.fixture(scope="module")
def specs():
    """Derived once per architecture and kept."""
    kept = {}

    def derive(name):
        if name not in kept:
            torch.manual_seed(0)
            make, example = ZOO[name]
            network = make().double().eval()
            spec = PermutationSpec.from_module(network, example_input=example)
            kept[name] = network, ParameterLayout.from_module(network), spec
        return kept[name]

    return derive


def random_params(network, layout, generator, num=1):
    """Vectors (num, P) around the initial values; what is positive stays so."""
    initial = layout.flatten(network.state_dict()).expand(num, -1)
    factors = 0.5 + torch.rand(initial.shape, generator=generator, dtype=torch.float64)
    noise = 0.3 * torch.randn(initial.shape, generator=generator, dtype=torch.float64)
    positive = torch.cat([(t > 0).all().expand(t.numel()) for t in layout.unflatten(initial[0]).values()])
    return torch.where(positive, initial * factors, initial + noise)


def outputs(network, layout, params, example):
    """All outputs of one network as one vector."""

    def flat(value):
        if isinstance(value, torch.Tensor):
            return [value.flatten()]
        parts = value.values() if isinstance(value, dict) else value
        return [tensor for part in parts for tensor in flat(part)]

    example = example.double() if example.is_floating_point() else example
    with torch.no_grad():
        return torch.cat(flat(torch.func.functional_call(network, layout.unflatten(params), (example,))))


@pytest.mark.parametrize("name", ZOO)
def test_a_spec_keeps_the_function_and_its_groups_are_those_found_by_hand(specs, name):
    _, layout, spec = specs(name)
    assert spec.group_sizes(layout) == GROUPS[name]
    assert_reordered_networks_compute_the_same_function(name, *specs(name))
    assert_outputs_depend_on_every_group(name, *specs(name))
    assert_json_round_trip(layout, spec)
    assert_inverse_and_composition(layout, spec)


def assert_reordered_networks_compute_the_same_function(name, network, layout, spec):
    generator = torch.Generator().manual_seed(0)
    params = random_params(network, layout, generator, num=3)
    permuted = spec.permute(params, layout, spec.draw(layout, 3, generator))
    assert not GROUPS[name] or (permuted != params).any()
    for before, after in zip(params, permuted, strict=True):
        expected = outputs(network, layout, before, ZOO[name][1])
        gap = (outputs(network, layout, after, ZOO[name][1]) - expected).abs().max()
        assert gap <= 1e-10 * expected.abs().max()


def assert_outputs_depend_on_every_group(name, network, layout, spec):
    """Moving a group in one of its tensors alone changes the function: the check above is not vacuous."""
    params = random_params(network, layout, torch.Generator().manual_seed(0))
    before = outputs(network, layout, params[0], ZOO[name][1])
    for group, units in spec.group_sizes(layout).items():
        moves = {g: torch.arange(u)[None] for g, u in spec.group_sizes(layout).items()}
        moves[group] = torch.arange(units).roll(1)[None]
        moved = layout.unflatten(spec.permute(params, layout, moves)[0])
        still = layout.unflatten(params[0])
        holders = [n for n in layout.names if not torch.equal(moved[n], still[n])]
        if len(holders) == 1:
            assert group == "queries.units"  # learned queries can be reordered on their own
            continue
        changed = [outputs(network, layout, layout.flatten(still | {n: moved[n]}), ZOO[name][1]) for n in holders]
        assert any((after - before).abs().max() > 1e-6 * before.abs().max() for after in changed), group


def assert_json_round_trip(layout, spec):
    read = PermutationSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert read == spec
    assert read.blocks(layout) == spec.blocks(layout)


def assert_inverse_and_composition(layout, spec):
    generator = torch.Generator().manual_seed(0)
    params = torch.arange(3.0 * layout.num_params).view(3, -1)
    first, second = spec.draw(layout, 3, generator), spec.draw(layout, 3, generator)
    once = spec.permute(params, layout, first)
    assert torch.equal(spec.permute(once, layout, {g: perm.argsort(dim=1) for g, perm in first.items()}), params)
    both = {g: first[g].gather(1, second[g]) for g in first}
    assert torch.equal(spec.permute(once, layout, second), spec.permute(params, layout, both))


def test_axes_of_a_flattened_network(specs):
    _, _, spec = specs("flatten")
    assert spec.axes == {
        "0.weight": ("0.units", None, None, None),
        "0.bias": ("0.units",),
        "3.weight": ("3.units", "0.units", None, None),
        "3.bias": ("3.units",),
        "6.weight": (None, (AxisBlock("3.units", 6, 9),)),
        "6.bias": (None,),
    }


def test_axes_where_groups_lie_side_by_side(specs):
    _, _, spec = specs("densenet")
    stem, first, second = ("stem.units", 4), ("grow1.units", 3), ("grow2.units", 5)
    assert spec.axes["norm.running_var"] == ((AxisBlock(*stem), AxisBlock(*first)),)
    assert spec.axes["head.weight"][1] == tuple(AxisBlock(*group, inner=16) for group in (stem, first, second))
    _, _, spec = specs("tiny gpt")
    both, values = (tuple(AxisBlock(f"attention.qkv.units.{kind}.head{h}", 2) for h in range(3)) for kind in range(2))
    assert spec.axes["attention.qkv.weight"] == ((*both, *both, *values), "tokens.units")
    assert spec.axes["attention.proj.weight"] == ("tokens.units", values)
    assert spec.axes["position"] == (None, "tokens.units")


def test_tensors_that_the_forward_pass_does_not_use_stay_fixed(specs):
    _, _, spec = specs("actor")
    assert spec.axes["log_std"] == (None,)


KEPT = {
    "normalize": lambda x: F.normalize(x, dim=-1),
    "softmax": lambda x: x.softmax(dim=-1) * x.logsumexp(dim=-1, keepdim=True),
    "sum of squares": lambda x: x * x.pow(2).sum(dim=-1, keepdim=True).sqrt(),
    "in place": lambda x: x.mul_(2.0).relu_(),
    "in place on a view": lambda x: F.dropout(x.view(-1, 1, 6), 0.5, False, True).relu_().add_(1.0).flatten(1),
    "no grad": lambda x: x * torch.no_grad()(torch.sigmoid)(x),
    "zeros": lambda x: x + torch.zeros(2, 6) + torch.ones_like(x),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x).clamp(-1, 1),
    "stack": lambda x: torch.stack([x, -x], dim=1).amax(dim=1),
    "einsum": lambda x: torch.einsum("bi,bi,bj->bj", x, x, x),
    "gram": lambda x: x @ x.T @ x,
    "max": lambda x: x / (1 + x.abs().max()),
    "var": lambda x: (x - x.mean(-1, keepdim=True)) / (1 + x.var(-1, keepdim=True)).sqrt(),
}


def test_functions_that_treat_all_units_alike_keep_them_free(subtests):
    example = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    for name, function in KEPT.items():
        with subtests.test(name):
            spec = PermutationSpec.from_module(Applied(function), example_input=example)
            assert spec.axes["fc1.weight"] == ("fc1.units", None)
            assert spec.axes["fc2.weight"] == (None, "fc1.units")


COARSER = {
    "pairs": (lambda x: F.max_pool1d(x[:, None], 2).repeat_interleave(2, dim=2)[:, 0], {}),
    "reversed": (lambda x: x + x.flip(1), {}),
    "halves": (lambda x: x.view(-1, 2, 3).transpose(1, 2).reshape(-1, 6), {}),
    "every other unit": (lambda x: x + x[:, ::2].repeat_interleave(2, dim=1), {"fc1.units": 3}),
    "constants": (lambda x: x * torch.tensor([1.0, 2, 3, 4, 5, 6]), {}),
    "half of them": (lambda x: torch.cat([x[:, :3], x[:, 3:].tanh()], dim=1), {"fc1.units": 3, "fc1.units.1": 3}),
    "one of them": (lambda x: x * x[:, :1], {"fc1.units": 5}),
    "in place on a part": (lambda x: written(x, lambda y: y[:, :3].relu_()), {"fc1.units": 3, "fc1.units.1": 3}),
    "one of them set": (lambda x: set_entries(x, (slice(None), 0), 0.0), {"fc1.units": 5}),
    "every other one in place": (lambda x: written(x, lambda y: y[:, ::2].add_(1.0)), {"fc1.units": 3}),
    "parts copied": (
        lambda x: written(torch.zeros(2, 6), lambda y: (y[:, :3].copy_(x[:, :3]), y[:, 3:].copy_(x[:, 3:].tanh()))),
        {"fc1.units": 3, "fc1.units.1": 3},
    ),
    "gather of units": (lambda x: x.gather(1, torch.arange(6).flip(0).expand(2, 6)), {}),
    "argmax": (lambda x: x + x.argmax(dim=1, keepdim=True), {}),
}


def test_functions_that_tell_units_apart_tie_or_fix_them(subtests):
    for name, (function, groups) in COARSER.items():
        with subtests.test(name):
            spec = PermutationSpec.from_module(Applied(function), example_input=torch.randn(2, 4))
            assert spec.group_sizes(ParameterLayout.from_module(Applied(function))) == groups


UNKNOWN = {
    "aten.sort": lambda x: x.sort(dim=1).values,
    "aten.linalg_matrix_exp": lambda x: x @ torch.linalg.matrix_exp(x.T @ x),
    "aten.topk": lambda x: x.topk(6, dim=1).values,
    "aten.randn_like": lambda x: x + torch.randn_like(x),
    r"aten.randn.default .* draws random numbers": lambda x: x + torch.randn(6),
    r"aten.bernoulli.default .* draws random numbers": lambda x: x * torch.bernoulli(torch.full((6,), 0.5)),
    "aten.dropout": lambda x: F.dropout(x, 0.5),  # on in eval mode too
}


def test_an_unknown_operation_is_named_with_its_place_and_the_two_ways_out(subtests):
    for operation, function in UNKNOWN.items():
        with subtests.test(operation):
            network = nn.Sequential(nn.Linear(5, 4), Applied(function))
            with pytest.raises(ValueError, match=operation) as error:
                PermutationSpec.from_module(network, (5,))
            for part in ("in module '1'", "by hand", "PermutationSpec.none(layout)"):
                assert part in str(error.value)


def test_an_unknown_operation_on_inputs_alone_moves_nothing():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x.sort(dim=1).values)

    assert PermutationSpec.from_module(Sorted(), (4,)).axes["network.2.weight"] == (None, "network.0.units")


def test_control_flow_that_depends_on_data_is_named():
    with pytest.raises(ValueError, match="control flow that depends on data"):
        PermutationSpec.from_module(Applied(lambda x: x if x.sum() > 0 else -x), (4,))


def test_a_wrong_input_shape_is_reported_by_the_network():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        PermutationSpec.from_module(nn.Linear(4, 2), (5,))


def test_a_spec_leaves_the_module_as_it_was():
    network = ZOO["batch norm"][0]().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    PermutationSpec.from_module(network, (3, 4, 4))
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_many_heads_move_as_wholes():
    attention = SelfAttention(width=12, heads=6)
    network = nn.Sequential(nn.Linear(3, 12), attention, nn.Linear(12, 2))
    spec = PermutationSpec.from_module(network, (5, 3))
    whole = AxisBlock("1.qkv.units", 6, 2)
    assert spec.axes["1.qkv.weight"] == ((whole, whole, whole), "0.units")
