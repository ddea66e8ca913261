"""The chunk-token model computes what the reference computes, for every way of cutting tokens."""

import json

import pytest
import torch
from reference_files import ARCHITECTURES, batch_for, loop_model, needs_reference_files, reference_files, sizes_of
from safetensors.torch import load_file

from g_pt.model.noise import NoiseSchedule
from g_pt.model.reference_scheduler import (
    make_reference_scheduler,
    reference_alphas_cumprod,
    respaced_timesteps,
)
from g_pt.model.reference_transformer import ReferenceTransformer
from g_pt.networks.metrics import Metric
from g_pt.reference.checkpoints import import_model
from g_pt.reference.settings import read_settings
from g_pt.reference.splits import chunks, find_policy, split_sizes
from g_pt.reference.weights import load_reference_state, read_facts, reference_state


def our_model(spec, **options) -> ReferenceTransformer:
    sizes = sizes_of(spec)
    layout = [[f"t{i}", [size]] for i, size in enumerate(spec["tensors"])]
    options = {
        "width": 16,
        "num_layers": 2,
        "num_heads": 2,
        "encoder_depth": spec.get("encoders", 1),
        "decoder_depth": spec.get("decoders", 1),
        "num_frequencies": spec.get("frequencies", 128),
        "max_frequency_log2": 5.0,
        "absolute_metrics": spec.get("absolute", True),
    } | options
    metric = Metric("loss", "nats").to_json()
    return ReferenceTransformer(layout, metric, list(sizes.inputs), list(sizes.outputs), **options).eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_outputs_and_gradients_equal_the_plain_form(name):
    spec = ARCHITECTURES[name]
    loop, ours, batch = loop_model(spec), our_model(spec), batch_for(spec)
    load_reference_state(ours, loop.state_dict())
    expected, got = loop(*batch), ours(*batch)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    target = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    for output in (expected, got):
        (output - target).square().mean().backward()
    wanted = {n: p.grad for n, p in loop.named_parameters()}
    for parameter in ours.parameters():
        parameter.data = parameter.grad  # gradients travel the way of the weights
    for key, gradient in reference_state(ours).items():
        if key in wanted:
            torch.testing.assert_close(gradient, wanted[key], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_go_there_and_back_and_say_the_architecture(name):
    spec = ARCHITECTURES[name]
    state = loop_model(spec).state_dict()
    facts = read_facts(state)
    assert facts.sizes == sizes_of(spec)
    assert (facts.encoder_depth, facts.decoder_depth) == (spec.get("encoders", 1), spec.get("decoders", 1))
    assert (facts.num_frequencies, facts.absolute_metrics) == (spec.get("frequencies", 128), spec.get("absolute", True))
    assert (facts.width, facts.num_layers, facts.max_frequency_log2) == (16, 2, 5.0)
    ours = our_model(spec)
    load_reference_state(ours, state)
    back = reference_state(ours)
    assert list(back) == [name for name in state if name in back]
    assert len(back) == len(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_policy_is_found_again(name):
    spec = ARCHITECTURES[name]
    options = {
        "num_frequencies": spec.get("frequencies", 128),
        "absolute_metrics": spec.get("absolute", True),
    }
    policy, chunk = find_policy(sizes_of(spec), spec["tensors"], **options)
    assert sizes_of({**spec, "policy": policy, "chunk": chunk}) == sizes_of(spec)
    with pytest.raises(ValueError, match="no split policy"):
        find_policy(sizes_of(spec), (*spec["tensors"], 3), **options)


def test_splits_by_hand():
    inputs = [[5, 2], [5, 2], [3]]
    assert chunks(7, 3) == [3, 3, 1]
    assert chunks(6, 3) == [3, 3]
    assert split_sizes(inputs, "chunk", 4) == [4, 4, 4, 4, 1]
    assert split_sizes(inputs, "layer_by_layer", None) == [5, 2, 5, 2, 3]
    assert split_sizes(inputs, "chunk_within_layer", 4) == [4, 1, 2, 4, 1, 2, 3]
    assert split_sizes(inputs, "chunk_within_input", 4) == [4, 3, 4, 3, 3]
    with pytest.raises(ValueError, match="chunk_size"):
        split_sizes(inputs, "chunk", None)
    with pytest.raises(ValueError, match="split_policy must be one of"):
        split_sizes(inputs, "words", 4)


def test_a_fresh_model_returns_the_start():
    spec = ARCHITECTURES["deep"]
    batch = batch_for(spec)
    torch.testing.assert_close(our_model(spec)(*batch), batch[2], rtol=0, atol=0)


def test_dropout_is_for_training_only():
    spec = ARCHITECTURES["inputs"]
    ours = our_model(spec, attention_dropout=0.3, residual_dropout=0.3, embedding_dropout=0.3)
    load_reference_state(ours, loop_model(spec).state_dict())
    batch = batch_for(spec)
    assert torch.equal(ours(*batch), ours(*batch))
    ours.train()
    assert not torch.equal(ours(*batch), ours(*batch))


def test_half_precision_keeps_the_frequencies(tmp_path):
    spec = ARCHITECTURES["inputs"]
    ours = our_model(spec, max_frequency_log2=14.0)
    ours.save_pretrained(tmp_path)
    again = ReferenceTransformer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert again.positions.dtype == torch.bfloat16
    assert torch.equal(again.sinusoids.frequency_bits, ours.sinusoids.frequency_bits)
    assert torch.equal(ours.to(torch.bfloat16).sinusoids.frequency_bits, again.sinusoids.frequency_bits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, "num_heads must divide width"),
        ({"num_frequencies": 5}, "input_sizes must sum to"),
        ({"decoder_depth": 0}, "at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        our_model(ARCHITECTURES["inputs"], **change)


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon"])
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_ddim_with_an_oracle_ends_at_x_0(num_steps, prediction_type):
    generator = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 3, 11, generator=generator, dtype=torch.float64)
    scheduler = make_reference_scheduler(prediction_type)
    scheduler.set_timesteps(num_steps)
    schedule = NoiseSchedule.from_alphas_cumprod(reference_alphas_cumprod())
    x_t = schedule[scheduler.timesteps[:1].expand(3)].add_noise(x_0, noise)
    visited = []
    for t in scheduler.timesteps:
        torch.testing.assert_close(x_t, schedule[t.expand(3)].add_noise(x_0, noise), rtol=1e-6, atol=1e-6)
        x_t = scheduler.step(x_0 if prediction_type == "sample" else noise, t, x_t).prev_sample
        visited.append(int(t))
    torch.testing.assert_close(x_t, x_0, rtol=1e-6, atol=1e-6)
    assert visited == respaced_timesteps(1000, num_steps)[::-1]


def test_timesteps_are_spread_from_end_to_end():
    assert respaced_timesteps(1000, 1000) == list(range(1000))
    assert respaced_timesteps(1000, 4) == [0, 333, 666, 999]
    assert respaced_timesteps(1000, 1) == [999]
    with pytest.raises(ValueError, match="num_inference_steps"):
        respaced_timesteps(1000, 1001)


@needs_reference_files
def test_outputs_equal_those_that_the_reference_wrote():
    folder = reference_files() / "mnist_tiny"
    expected = load_file(folder / "expected.safetensors")
    settings = read_settings(folder / "config.json")
    x, t = expected["x"], expected["t"]
    arguments = (expected["x_prev"], expected["loss_prev"], expected["loss_target"])
    with torch.no_grad():
        raw, ema = (
            import_model(folder / "checkpoint.pt", settings, weights=weights).pipeline.transformer
            for weights in ("raw", "ema")
        )
        assert (raw(x, t, *arguments) - expected["output"]).abs().max() <= 1e-5
        assert (ema(x, t, *arguments) - expected["output_ema"]).abs().max() <= 1e-5
        noised = NoiseSchedule.from_alphas_cumprod(reference_alphas_cumprod()[t]).add_noise(
            expected["x0"], expected["noise"]
        )
        noised = noised.float()
        assert (noised - expected["q_sample"]).norm() <= 1e-6 * noised.norm()
        loss = (raw(noised, t, *arguments) - expected["x0"]).square().mean(dim=1)
        torch.testing.assert_close(loss, expected["training_loss"], rtol=1e-4, atol=0)
        scheduler = make_reference_scheduler("sample")
        scheduler.set_timesteps(50)
        assert (
            scheduler.timesteps.tolist()[::-1] == json.loads((folder / "config.json").read_text())["ddim_50_timesteps"]
        )
        for step in scheduler.timesteps:
            x = scheduler.step(ema(x, step.expand(len(x)), *arguments), step, x).prev_sample
    assert (x - expected["ddim_50"]).norm() <= 1e-4 * x.norm()
