import pytest
import torch
from builders import layout_and_permutations, randomise

from g_pt.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec
from g_pt.tokens import UnitTokens, unit_index


@pytest.fixture
def parts():
    return layout_and_permutations((5, 7, 3))


@pytest.fixture
def tokens(parts):
    return randomise(UnitTokens(*parts, width=16).double())


def random_vectors(parts, generator, num=4):
    return torch.randn(2, num, parts[0].num_params, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("widths", [(5, 7, 3), (64, 16, 10), (1, 1, 1), (4, 3)])
def test_tokens_partition_the_vector(widths):
    layout, permutations = layout_and_permutations(widths)
    index = unit_index(layout, permutations)
    entries = torch.cat([part.flatten() for part in index.values()])
    assert torch.equal(entries.sort().values, torch.arange(layout.num_params))


def test_a_unit_owns_its_incoming_weights_its_bias_and_its_outgoing_weights(parts):
    layout, permutations = parts
    tensors = layout.unflatten(torch.arange(layout.num_params))
    index = unit_index(layout, permutations)
    assert list(index) == ["fc1.units", "fc2.bias"]
    for unit, entries in enumerate(index["fc1.units"]):
        owned = [tensors["fc1.weight"][unit], tensors["fc1.bias"][unit, None], tensors["fc2.weight"][:, unit]]
        assert entries.tolist() == torch.cat(owned).tolist()
    assert index["fc2.bias"].tolist() == [tensors["fc2.bias"].tolist()]


def test_convolutions_take_the_slices_along_their_channel_axis():
    layout = ParameterLayout(("conv", "scale", "head"), ((4, 3, 2, 2), (4,), (5, 4)))
    spec = PermutationSpec({"conv": ("c", None, None, None), "scale": ("c",), "head": (None, "c")})
    index = unit_index(layout, spec)
    assert index["c"].shape == (4, 12 + 1 + 5)
    assert index["c"][1].tolist() == [*range(12, 24), 49, *range(53, 72, 4)]


def test_a_tensor_between_two_permutable_axes_is_named():
    layout, permutations = layout_and_permutations((5, 7, 6, 3))
    with pytest.raises(ValueError, match=r"'fc2.weight' has \('fc2.units', 'fc1.units'\)"):
        unit_index(layout, permutations)


def test_encode_gives_one_token_per_unit_and_fixed_tensor(parts, tokens, generator):
    assert tokens.encode(*random_vectors(parts, generator)).shape == (4, 8, 16)


def test_encode_equals_the_linear_layer_written_out(parts, tokens, generator):
    x_t, x_start = random_vectors(parts, generator)
    encoded = tokens.encode(x_t, x_start)
    for unit, entries in enumerate(unit_index(*parts)["fc1.units"]):
        both = torch.cat([x_t[:, entries], x_start[:, entries]], dim=1)
        torch.testing.assert_close(encoded[:, unit], tokens.encoders[0](both) + tokens.kinds[0])


def test_decode_puts_every_number_where_encode_took_it(parts, tokens, generator):
    decoded = tokens.decode(torch.randn(4, 8, 16, generator=generator, dtype=torch.float64))
    assert decoded.shape == (4, parts[0].num_params)
    # with decoders that invert encoders the round trip is the identity
    x, _ = random_vectors(parts, generator)
    for encoder, decoder, (_, k) in zip(tokens.encoders, tokens.decoders, tokens.shapes, strict=True):
        with torch.no_grad():
            encoder.weight.zero_()[:k, :k] = torch.eye(k)
            decoder.weight.copy_(torch.eye(k, 16))
            encoder.bias.zero_()
            decoder.bias.zero_()
    tokens.kinds.data.zero_()
    assert torch.equal(tokens.decode(tokens.encode(x, torch.randn_like(x))), x)


def test_reordered_units_are_reordered_tokens(parts, tokens, generator):
    layout, permutations = parts
    x_t, x_start = random_vectors(parts, generator)
    drawn = permutations.draw(layout, 4, generator)
    permuted = tokens.encode(*(permutations.permute(x, layout, drawn) for x in (x_t, x_start)))
    original = tokens.encode(x_t, x_start)
    order = torch.cat([drawn["fc1.units"], torch.full((4, 1), 7)], dim=1)  # the bias token stays last
    assert torch.equal(permuted, original.gather(1, order[..., None].expand(-1, -1, 16)))


def test_the_decoder_starts_at_zero(parts):
    tokens = UnitTokens(*parts, width=16)
    assert torch.equal(tokens.decode(torch.randn(2, 8, 16)), torch.zeros(2, parts[0].num_params))
