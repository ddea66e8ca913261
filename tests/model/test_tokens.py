import pytest
import torch
from builders import layout_and_permutations, randomise

from g_pt.model.tokens import ParameterTokens
from g_pt.permutations.plans import plan_by_group
from g_pt.permutations.units import token_index


@pytest.fixture
def parts():
    return layout_and_permutations((5, 7, 3))


@pytest.fixture
def tokens(parts):
    return randomise(ParameterTokens(plan_by_group(token_index(*parts)), width=16, edge_width=8).double())


def random_vectors(layout, generator, num=4):
    return torch.randn(2, num, layout.num_params, generator=generator, dtype=torch.float64)


def test_encode_gives_one_token_per_unit_and_chunk(parts, tokens, generator):
    encoded, edges = tokens.encode(*random_vectors(parts[0], generator))
    assert [part.shape for part in encoded] == [(4, 7, 16), (4, 1, 16)]
    assert edges == []


def test_encode_equals_the_linear_layer_written_out(parts, tokens, generator):
    x_t, x_start = random_vectors(parts[0], generator)
    encoded, _ = tokens.encode(x_t, x_start)
    for unit, entries in enumerate(token_index(*parts).units["fc1.units"]):
        both = torch.cat([x_t[:, entries], x_start[:, entries]], dim=1)
        torch.testing.assert_close(encoded[0][:, unit], tokens.encoders[0](both) + tokens.kinds[0])


def test_decode_puts_every_number_where_encode_took_it(parts, tokens, generator):
    # with decoders that invert encoders the round trip is the identity
    x, other = random_vectors(parts[0], generator)
    for encoder, decoder, part in zip(tokens.encoders, tokens.decoders, tokens.plan.parts, strict=True):
        k = part.shape[1]
        with torch.no_grad():
            encoder.weight.zero_()[:k, :k] = torch.eye(k)
            decoder.weight.copy_(torch.eye(k, 16))
            encoder.bias.zero_()
            decoder.bias.zero_()
    tokens.kinds.data.zero_()
    assert torch.equal(tokens.decode(*tokens.encode(x, other)), x)


def test_decode_puts_edges_back_into_their_tensor(generator):
    layout, permutations = layout_and_permutations((5, 7, 6, 3))
    tokens = randomise(
        ParameterTokens(plan_by_group(token_index(layout, permutations)), width=8, edge_width=4).double()
    )
    encoded, edges = tokens.encode(*random_vectors(layout, generator))
    assert [part.shape for part in edges] == [(4, 6, 7, 4)]
    weight = layout.unflatten(tokens.decode(encoded, edges))["fc2.weight"]
    torch.testing.assert_close(weight, tokens.edge_decoders[0](edges[0])[..., 0])
    assert len(weight.unique()) == weight.numel()


@pytest.mark.parametrize("widths", [(5, 7, 3), (5, 7, 6, 3)])
def test_reordered_units_are_reordered_tokens_and_edges(widths, generator):
    layout, permutations = layout_and_permutations(widths)
    tokens = randomise(
        ParameterTokens(plan_by_group(token_index(layout, permutations)), width=16, edge_width=8).double()
    )
    x_t, x_start = random_vectors(layout, generator)
    drawn = permutations.draw(layout, 4, generator)
    permuted, permuted_edges = tokens.encode(*(permutations.permute(x, layout, drawn) for x in (x_t, x_start)))
    original, original_edges = tokens.encode(x_t, x_start)
    for after, before, order in zip(permuted, original, drawn.values(), strict=False):
        torch.testing.assert_close(after, before.gather(1, order[..., None].expand_as(before)), rtol=0, atol=1e-12)
    torch.testing.assert_close(permuted[-1], original[-1], rtol=0, atol=0)  # the bias token stays last
    for after, before in zip(permuted_edges, original_edges, strict=True):
        rows, columns = drawn["fc2.units"], drawn["fc1.units"]
        for network in range(4):
            expected = before[network][rows[network]][:, columns[network]]
            torch.testing.assert_close(after[network], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("widths", [(5, 7, 3), (5, 7, 6, 3)])
def test_the_decoder_starts_at_zero(widths):
    layout, permutations = layout_and_permutations(widths)
    tokens = ParameterTokens(plan_by_group(token_index(layout, permutations)), width=16, edge_width=8)
    assert torch.equal(
        tokens.decode(*tokens.encode(*torch.randn(2, 2, layout.num_params))), torch.zeros(2, layout.num_params)
    )
