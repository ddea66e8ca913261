import pytest
import torch
from builders import layout_and_permutations

from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec
from g_pt.permutations.units import token_index


@pytest.fixture
def parts():
    return layout_and_permutations((5, 7, 3))


def entries_of(index):
    return torch.cat([part.flatten() for part in index.parts])


@pytest.mark.parametrize("tokenization", ["units", "slices", "chunks"])
@pytest.mark.parametrize("widths", [(5, 7, 3), (64, 16, 10), (1, 1, 1), (4, 3), (5, 7, 6, 3), (64, 16, 16, 10)])
def test_tokens_and_edges_partition_the_vector(widths, tokenization):
    layout, permutations = layout_and_permutations(widths)
    entries = entries_of(token_index(layout, permutations, tokenization, chunk_size=50))
    assert torch.equal(entries.sort().values, torch.arange(layout.num_params))


def test_a_unit_owns_its_incoming_weights_its_bias_and_its_outgoing_weights(parts):
    layout, permutations = parts
    tensors = layout.unflatten(torch.arange(layout.num_params))
    index = token_index(layout, permutations)
    assert list(index.units) == ["fc1.units"]
    for unit, entries in enumerate(index.units["fc1.units"]):
        owned = [tensors["fc1.weight"][unit], tensors["fc1.bias"][unit, None], tensors["fc2.weight"][:, unit]]
        assert entries.tolist() == torch.cat(owned).tolist()
    assert [chunk.tolist() for chunk in index.chunks.values()] == [[tensors["fc2.bias"].tolist()]]
    assert index.edges == {}


def test_a_tensor_between_two_groups_is_edges_and_owned_by_no_unit():
    layout, permutations = layout_and_permutations((5, 7, 6, 3))
    tensors = layout.unflatten(torch.arange(layout.num_params))
    index = token_index(layout, permutations)
    assert {pair: part.shape for pair, part in index.edges.items()} == {("fc2.units", "fc1.units"): (6, 7, 1)}
    assert torch.equal(index.edges["fc2.units", "fc1.units"][..., 0], tensors["fc2.weight"])
    assert {group: part.shape for group, part in index.units.items()} == {"fc1.units": (7, 6), "fc2.units": (6, 4)}


def test_a_kernel_between_two_channels_is_one_edge():
    layout = ParameterLayout(("conv", "scale", "conv2"), ((4, 3, 2, 2), (4,), (6, 4, 3, 3)))
    spec = PermutationSpec({"conv": ("a", None, None, None), "scale": ("a",), "conv2": ("b", "a", None, None)})
    index = token_index(layout, spec)
    assert index.units["a"].shape == (4, 12 + 1)
    assert index.units["a"][1].tolist() == [*range(12, 24), 49]
    assert index.units["b"].shape == (6, 0)
    assert index.edges["b", "a"].shape == (6, 4, 9)
    assert index.edges["b", "a"][2, 1].tolist() == list(range(52 + (2 * 4 + 1) * 9, 52 + (2 * 4 + 2) * 9))


def test_two_tensors_between_the_same_groups_share_their_edges():
    layout = ParameterLayout(("there", "back"), ((2, 3), (3, 2)))
    spec = PermutationSpec({"there": ("b", "a"), "back": ("a", "b")})
    (edges,) = token_index(layout, spec).edges.values()
    assert edges[1, 2].tolist() == [5, 6 + 2 * 2 + 1]


def test_slices_give_a_whole_row_to_the_units_of_the_first_axis():
    layout, permutations = layout_and_permutations((5, 7, 6, 3))
    index = token_index(layout, permutations, "slices")
    assert {group: part.shape for group, part in index.units.items()} == {"fc1.units": (7, 6), "fc2.units": (6, 11)}
    assert index.edges == {}


def test_chunks_cut_every_tensor():
    layout, permutations = layout_and_permutations((5, 7, 3))
    index = token_index(layout, permutations, "chunks", chunk_size=10)
    assert [part.shape[1] for part in index.chunks.values()] == [10, 10, 10, 5, 7, 10, 10, 1, 3]
    assert index.units == {}
    assert torch.equal(entries_of(index), torch.arange(layout.num_params))


def test_three_permutable_axes_are_refused():
    layout = ParameterLayout(("core",), ((2, 3, 4),))
    with pytest.raises(ValueError, match=r"'core' has \('a', 'b', 'c'\)"):
        token_index(layout, PermutationSpec({"core": ("a", "b", "c")}))
