import pytest
import torch
import torch.nn.functional as F
from builders import build_transformer, randomise

from g_pt.model.transformer import ParameterTransformer, attention

INPUTS = ("x_t", "timesteps", "x_start", "starting_metric", "prompted_metric")


def random_inputs(model, generator, num=4, dtype=torch.float32):
    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return {
        "x_t": draw(num, model.layout.num_params),
        "timesteps": torch.randint(1000, (num,), generator=generator),
        "x_start": draw(num, model.layout.num_params),
        "starting_metric": 2 + draw(num).sigmoid(),
        "prompted_metric": draw(num).sigmoid(),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_equals_pytorch(dtype, generator):
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=generator, dtype=dtype)
    expected = F.scaled_dot_product_attention(q, k, v)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(attention(q, k, v), expected, rtol=tolerance, atol=tolerance)


def test_attention_has_the_gradients_of_pytorch(generator):
    inputs = torch.randn(3, 2, 4, 9, 8, generator=generator, dtype=torch.float64).requires_grad_()
    ours, theirs = (
        torch.autograd.grad(f(*inputs).square().sum(), inputs)[0] for f in (attention, F.scaled_dot_product_attention)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_attention_in_bfloat16_stays_close_and_keeps_its_type(generator):
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=generator)
    half = attention(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), attention(q, k, v), rtol=0.05, atol=0.05)


def test_the_untrained_model_is_exactly_the_identity_update(generator):
    model = build_transformer(num_layers=3)
    inputs = random_inputs(model, generator)
    assert torch.equal(model(**inputs), inputs["x_start"])


@pytest.mark.parametrize("widths", [(5, 7, 3), (4, 3), (8, 16, 10), (5, 7, 6, 3), (5, 4, 4, 4, 3)])
def test_reordering_the_units_of_the_inputs_reorders_those_of_the_output(widths, generator):
    model = randomise(build_transformer(widths, num_layers=2).double())
    inputs = random_inputs(model, generator, dtype=torch.float64)
    drawn = model.permutations.draw(model.layout, 4, generator)

    def permute(x):
        return model.permutations.permute(x, model.layout, drawn)

    with torch.no_grad():
        output = model(**inputs)
        of_permuted = model(**inputs | {name: permute(inputs[name]) for name in ("x_t", "x_start")})
    assert (output - inputs["x_start"]).abs().mean() > 0.1  # the model does something
    assert (of_permuted - permute(output)).abs().max() <= 1e-9


def test_the_symmetry_is_only_that_of_both_inputs_together(generator):
    model = randomise(build_transformer().double())
    inputs = random_inputs(model, generator, dtype=torch.float64)
    drawn = model.permutations.draw(model.layout, 4, generator)
    permuted = model.permutations.permute(inputs["x_t"], model.layout, drawn)
    gap = model(**inputs | {"x_t": permuted}) - model.permutations.permute(model(**inputs), model.layout, drawn)
    assert gap.abs().max() > 0.1


@pytest.mark.parametrize("name", INPUTS)
def test_the_output_depends_on_every_input(name, generator):
    model = randomise(build_transformer())
    inputs = random_inputs(model, generator)
    changed = inputs[name] + 100 if name == "timesteps" else inputs[name] * 1.1
    difference = model(**inputs | {name: changed % 1000}) - model(**inputs)
    if name == "x_start":
        difference = difference - (changed - inputs[name])  # beyond the skip connection
    assert (difference.abs().amax(dim=1) > 1e-4).all()


def test_networks_of_a_batch_do_not_see_each_other(generator):
    model = randomise(build_transformer())
    inputs = random_inputs(model, generator)
    alone = torch.cat([model(**{k: v[i : i + 1] for k, v in inputs.items()}) for i in range(4)])
    torch.testing.assert_close(alone, model(**inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokenization", ["units", "slices", "chunks"])
def test_gradients_reach_every_parameter(tokenization, generator):
    model = randomise(build_transformer((5, 7, 6, 3), num_layers=2, tokenization=tokenization))
    model(**random_inputs(model, generator)).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_predicting_v_leaves_the_start_out(generator):
    model = build_transformer(prediction_type="v_prediction")
    inputs = random_inputs(model, generator)
    assert torch.equal(model(**inputs), torch.zeros_like(inputs["x_start"]))


@pytest.mark.parametrize("tokenization", ["slices", "chunks"])
def test_tokens_with_positions_are_not_equivariant(tokenization, generator):
    model = randomise(build_transformer((5, 7, 6, 3), tokenization=tokenization, chunk_size=20).double())
    inputs = random_inputs(model, generator, dtype=torch.float64)
    drawn = model.permutations.draw(model.layout, 4, generator)
    permuted = {name: model.permutations.permute(inputs[name], model.layout, drawn) for name in ("x_t", "x_start")}
    gap = model(**inputs | permuted) - model.permutations.permute(model(**inputs), model.layout, drawn)
    assert gap.abs().max() > 0.1


def test_at_the_start_the_decoders_learn_first(generator):
    model = build_transformer()
    model(**random_inputs(model, generator)).square().sum().backward()
    assert {name.split(".")[1] for name, p in model.named_parameters() if p.grad.any()} == {"decoders"}


def test_saving_and_loading_is_exact(tmp_path, generator):
    model = randomise(build_transformer(num_layers=2)).eval()
    model.save_pretrained(tmp_path)
    loaded = ParameterTransformer.from_pretrained(tmp_path)
    inputs = random_inputs(model, generator)
    assert torch.equal(loaded(**inputs), model(**inputs))
    assert loaded.layout == model.layout
    assert loaded.permutations == model.permutations
    assert loaded.metric == model.metric
    assert not any(path.suffix in (".bin", ".pt", ".pkl") for path in tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_to_full(dtype, generator):
    model = randomise(build_transformer(num_frequencies=32), scale=0.1).eval()
    inputs = random_inputs(model, generator)
    with torch.no_grad():
        full = model(**inputs)
        half = model.to(dtype)(**inputs | {name: inputs[name].to(dtype) for name in ("x_t", "x_start")})
    assert half.dtype == dtype
    error = (half.float() - full).square().mean().sqrt() / (full - inputs["x_start"]).square().mean().sqrt()
    assert error < 0.05


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="got 3 and 16"):
        build_transformer(num_heads=3)


def test_gradient_checkpointing_by_diffusers_names_changes_neither_outputs_nor_gradients():
    model = randomise(build_transformer((5, 7, 6, 3), num_layers=2))
    size = model.layout.num_params
    x_t, x_start = torch.randn(2, 4, size, generator=torch.Generator().manual_seed(0))
    inputs = (torch.tensor([10, 400, 700, 999]), x_start, torch.full((4,), 2.0), torch.full((4,), 0.5))

    def outputs_and_gradients():
        model.zero_grad()
        x = x_t.clone().requires_grad_()
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
            output = model(x, *inputs)
        output.square().mean().backward()
        return output.detach(), [x.grad, *(p.grad.clone() for p in model.parameters())], sum(saved)

    assert not model.is_gradient_checkpointing
    plain, gradients, kept = outputs_and_gradients()
    model.enable_gradient_checkpointing()
    assert model.is_gradient_checkpointing
    again, others, fewer = outputs_and_gradients()
    assert torch.equal(again, plain)
    for one, other in zip(others, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
    assert fewer < 0.5 * kept
    model.disable_gradient_checkpointing()
    assert outputs_and_gradients()[2] == kept
