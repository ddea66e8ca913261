import re

import pytest
import torch
from torch import nn

from g_pt.networks.parameters import ParameterLayout

MODULES = {
    "mlp": lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)),
    "batch norm": lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.LazyLinear(2)),
    "attention": lambda: nn.MultiheadAttention(8, 2),
    "scalar": lambda: Scale(),
}


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))
        self.shift = nn.Parameter(torch.zeros(3))


@pytest.fixture(params=MODULES)
def module(request):
    module = MODULES[request.param]()
    if request.param == "batch norm":
        module(torch.randn(4, 3, 6, 6))  # sizes of the lazy layer, and running statistics that are not 0 and 1
    return module


@pytest.fixture
def layout():
    return ParameterLayout(("weight", "bias"), ((3, 2), (3,)))


def test_flatten_then_unflatten_is_exact(module):
    layout = ParameterLayout.from_module(module)
    vector = layout.flatten(module.state_dict())
    assert vector.shape == (layout.num_params,)
    for name, tensor in layout.unflatten(vector).items():
        assert torch.equal(tensor, module.state_dict()[name])


def test_unflatten_then_flatten_is_exact_for_any_leading_axes(module, subtests):
    for lead in [(7,), (2, 3), (0,)]:
        with subtests.test(lead=lead):
            layout = ParameterLayout.from_module(module)
            vectors = torch.randn(*lead, layout.num_params)
            tensors = layout.unflatten(vectors)
            for name, shape in zip(layout.names, layout.shapes, strict=True):
                assert tensors[name].shape == (*lead, *shape)
            assert torch.equal(layout.flatten(tensors), vectors)


def test_the_vector_is_the_state_dict_in_order_row_major(module):
    layout = ParameterLayout.from_module(module)
    expected = [v for t in module.state_dict().values() if t.is_floating_point() for v in t.flatten().tolist()]
    assert layout.flatten(module.state_dict()).tolist() == expected


def test_running_statistics_are_part_of_a_layout_and_counters_are_not():
    layout = ParameterLayout.from_module(nn.BatchNorm1d(4))
    assert layout.names == ("weight", "bias", "running_mean", "running_var")
    assert layout.num_params == 16


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


def test_a_tied_tensor_is_held_once_under_its_first_name():
    module = Tied()
    layout = ParameterLayout.from_module(module)
    assert layout.names == ("embedding.weight", "head.bias")
    assert list(module.state_dict()) == ["embedding.weight", "head.weight", "head.bias"]
    assert layout.flatten(module.state_dict()).shape == (35,)  # the second name is no tensor of its own


def test_a_tied_network_computes_with_the_tensors_of_its_layout():
    module, tokens = Tied(), torch.arange(7)
    layout = ParameterLayout.from_module(module)
    tensors = layout.unflatten(torch.randn(layout.num_params, generator=torch.Generator().manual_seed(0)))
    expected = tensors["embedding.weight"] @ tensors["embedding.weight"].T + tensors["head.bias"]
    torch.testing.assert_close(torch.func.functional_call(module, tensors, (tokens,)), expected)


def test_equal_tensors_that_are_not_tied_are_both_held():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].load_state_dict(module[0].state_dict())
    assert ParameterLayout.from_module(module).num_params == 24


def test_a_network_rebuilt_from_its_vector_computes_the_same(module):
    rebuilt = ParameterLayout.from_module(module)
    copy = rebuilt.unflatten(rebuilt.flatten(module.state_dict()))
    module.load_state_dict(copy, strict=False)
    assert torch.equal(rebuilt.flatten(module.state_dict()), rebuilt.flatten(copy))


def test_non_contiguous_tensors_and_vectors_are_read_in_logical_order(layout):
    tensors = {"weight": torch.arange(6.0).view(2, 3).T, "bias": torch.arange(6.0)[::2]}
    assert layout.flatten(tensors).tolist() == [0, 3, 1, 4, 2, 5, 0, 2, 4]
    columns = torch.arange(18.0).view(9, 2)
    assert torch.equal(layout.unflatten(columns.T)["weight"][1], columns[:6, 1].view(3, 2))


def test_slices_cut_the_same_pieces_as_unflatten(module):
    layout = ParameterLayout.from_module(module)
    vector = torch.randn(layout.num_params)
    for name, tensor in layout.unflatten(vector).items():
        assert torch.equal(vector[layout.slices[name]], tensor.flatten())


def test_gradients_pass_through(layout):
    vector = torch.randn(9, requires_grad=True)
    layout.unflatten(vector)["bias"].sum().backward()
    assert vector.grad.tolist() == [0] * 6 + [1] * 3


def test_json_round_trip(module):
    import json

    layout = ParameterLayout.from_module(module)
    assert ParameterLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


MISFITS = [
    ({"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, ["'weight'", "(3, 2)", "(2, 3)"]),
    ({"weight": torch.zeros(3, 2), "bias": torch.zeros(3, 1)}, ["'bias'", "(3,)", "(3, 1)"]),
    ({"weight": torch.zeros(3, 2)}, ["'bias'", "(3,)", "missing", "['weight']"]),
    ({"weight": torch.zeros(3, 2), "bias": torch.zeros(3), "scale": torch.zeros(1)}, ["'scale'", "bias (3,)"]),
]


def test_errors_name_the_tensor_the_wanted_shape_and_what_came(layout, subtests):
    for use in ["check", "flatten"]:
        for tensors, parts in MISFITS:
            with subtests.test(use=use, parts=parts):
                with pytest.raises(ValueError, match="tensor") as error:
                    getattr(layout, use)(tensors)
                for part in parts:
                    assert part in str(error.value)


def test_check_refuses_a_batch_unless_it_is_asked_for(layout):
    batch = layout.unflatten(torch.zeros(4, 9))
    layout.check(batch, batched=True)
    with pytest.raises(ValueError, match=re.escape("(3, 2), got (4, 3, 2)")):
        layout.check(batch)


def test_a_vector_of_another_length_is_refused(layout):
    with pytest.raises(ValueError, match=re.escape("9 parameters, got 8; its tensors are weight (3, 2), bias (3,)")):
        layout.unflatten(torch.zeros(8))


def test_layouts_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="must differ"):
        ParameterLayout(("a", "a"), ((1,), (1,)))
    with pytest.raises(ValueError, match="got 1 and 2"):
        ParameterLayout(("a",), ((1,), (1,)))
    with pytest.raises(ValueError, match="ReLU has no"):
        ParameterLayout.from_module(nn.ReLU())
