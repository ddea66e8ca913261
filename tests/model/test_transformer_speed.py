"""What training may do to the model for speed does not change what it computes: bfloat16 autocast, torch.compile."""

from __future__ import annotations

import shutil

import pytest
import torch
from builders import build_transformer, randomise
from torch import nn

from g_pt.model.batched_layers import alike, apply_linears
from g_pt.model.embeddings import ScalarEmbedding, embed_scalars

NETWORKS = {"one hidden layer": (5, 7, 3), "two hidden layers": (5, 7, 6, 3)}  # the second has edges


def random_inputs(model, generator, num=4):
    x_t, x_start = torch.randn(2, num, model.layout.num_params, generator=generator)
    timesteps = torch.randint(1000, (num,), generator=generator)
    starting, prompted = 0.5 + torch.rand(2, num, generator=generator)
    return x_t, timesteps, x_start, starting, prompted


def update_and_gradients(model, forward, inputs):
    model.zero_grad()
    output = forward(*inputs).float() - inputs[2]
    output.square().mean().backward()
    return output.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def relative_error(value, exact):
    return ((value - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("widths", NETWORKS.values(), ids=list(NETWORKS))
def test_bfloat16_autocast_stays_close_and_its_gradients_are_full_precision(widths, generator):
    model = randomise(build_transformer(widths, num_layers=2), scale=0.1)
    inputs = random_inputs(model, generator)
    exact, exact_gradients = update_and_gradients(model, model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(*inputs).dtype == torch.float32  # what is added to the start keeps the start's precision
        half, gradients = update_and_gradients(model, model, inputs)
    assert relative_error(half, exact) < 0.05
    assert {g.dtype for g in gradients.values()} == {torch.float32}
    flat, exact_flat = (torch.cat([g.flatten() for g in found.values()]) for found in (gradients, exact_gradients))
    assert relative_error(flat, exact_flat) < 0.05


@pytest.mark.parametrize("widths", NETWORKS.values(), ids=list(NETWORKS))
def test_the_model_is_one_graph_without_breaks(widths, generator):
    model = randomise(build_transformer(widths), scale=0.1)
    inputs = random_inputs(model, generator)
    explained = torch._dynamo.explain(model)(*inputs)
    torch._dynamo.reset()
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("widths", NETWORKS.values(), ids=list(NETWORKS))
def test_the_compiled_graphs_of_both_passes_compute_the_same(widths, generator):
    model = randomise(build_transformer(widths), scale=0.1)
    inputs = random_inputs(model, generator)
    exact, exact_gradients = update_and_gradients(model, model, inputs)
    # the graphs that inductor would be given, run without making C++ of them, which takes long
    captured, gradients = update_and_gradients(model, torch.compile(model, fullgraph=True, backend="aot_eager"), inputs)
    torch._dynamo.reset()
    torch.testing.assert_close(captured, exact, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, exact_gradients[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++") and not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_the_compiled_model_computes_the_same(generator):
    model = randomise(build_transformer((4, 3, 2)), scale=0.1)
    inputs = random_inputs(model, generator)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_layers_of_equal_shapes_are_one_product_and_each_has_its_own_input(generator):
    shapes = [(3, 4), (5, 4), (3, 4), (3, 4)]
    layers = [nn.Linear(*shape).double() for shape in shapes]
    inputs = [torch.randn(2, 6, shape[0], generator=generator, dtype=torch.float64) for shape in shapes]
    inputs[3] = inputs[3][:, :1]  # other rows: another product
    assert alike(layers, inputs) == [[0, 2], [1], [3]]
    outputs = apply_linears(layers, inputs)
    for layer, values, output in zip(layers, inputs, outputs, strict=True):
        torch.testing.assert_close(output, layer(values), rtol=1e-12, atol=1e-12)


def test_chunks_are_not_encoded_one_by_one(generator):
    model = build_transformer((40, 10, 4), tokenization="chunks", chunk_size=20)  # 20 chunks of 20, and 3 others
    inputs = random_inputs(model, generator)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler, torch.no_grad():
        model.tokens.encode(inputs[0], inputs[2])
    products = [e for e in profiler.events() if e.name in ("aten::addmm", "aten::baddbmm", "aten::mm", "aten::bmm")]
    assert len(model.tokens.encoders) == 24
    assert 1 <= len(products) <= 5


def test_scalars_are_embedded_together_as_they_are_alone(generator):
    embeddings = [ScalarEmbedding(8, 3, frequency).double() for frequency in (10.0, 100.0)]
    scalars = list(torch.rand(2, 5, generator=generator, dtype=torch.float64))
    together = embed_scalars(embeddings, scalars)
    assert together.shape == (5, 2, 8)
    for place, (embedding, scalar) in enumerate(zip(embeddings, scalars, strict=True)):
        torch.testing.assert_close(together[:, place], embedding(scalar), rtol=1e-12, atol=1e-12)
