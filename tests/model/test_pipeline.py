import json
import warnings

import pytest
import torch
from builders import build_pipeline, randomise
from safetensors.torch import load_file, save_file

from g_pt.model.model_folders import SHIM
from g_pt.model.pipeline import ParameterUpdatePipeline, PromptRangeWarning
from g_pt.model.schedulers import SCHEDULERS, noise_schedule

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def starts(digits):
    return digits.init(3, torch.Generator().manual_seed(7))


def sample(pipeline, starts, seed=0, prompt=0.5, **options):
    return pipeline(starts, prompt, generator=torch.Generator().manual_seed(seed), **options).params


@pytest.mark.parametrize("num_steps", [1, 4])
@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_the_untrained_model_returns_the_start_with_every_sampler(tiny_pipeline, starts, name, num_steps):
    tiny_pipeline.set_scheduler(name)
    updated = sample(tiny_pipeline, starts, num_inference_steps=num_steps)
    torch.testing.assert_close(updated, starts, rtol=0, atol=1e-4)


def test_the_seed_decides(random_pipeline, starts):
    first, again, other = (sample(random_pipeline, starts, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other, atol=1e-4).all(dim=1).any()
    assert (first - starts).abs().mean() > 1e-3


def test_given_latents_take_the_place_of_the_generator(random_pipeline, starts):
    latents = torch.randn(starts.shape, generator=torch.Generator().manual_seed(3))
    own = sample(random_pipeline, starts, seed=3)
    assert torch.equal(sample(random_pipeline, starts, seed=8, latents=latents), own)
    assert not torch.equal(sample(random_pipeline, starts, seed=3, latents=-latents), own)
    with pytest.raises(ValueError, match=r"latents must be \(3, .*got \(2,"):
        random_pipeline(starts, 0.5, latents=latents[:2])


def test_the_prompt_the_start_and_its_metric_decide_too(random_pipeline, starts):
    result = sample(random_pipeline, starts)
    assert not torch.allclose(sample(random_pipeline, starts, prompt=2.0), result, atol=1e-5)
    assert not torch.allclose(sample(random_pipeline, starts, starting_metric=torch.full((3,), 0.1)), result, atol=1e-5)


def test_reordered_starts_give_reordered_updates(random_pipeline, starts, digits, generator, monkeypatch):
    drawn = digits.permutations.draw(digits.layout, 3, generator)

    def permute(x):
        return digits.permutations.permute(x, digits.layout, drawn)

    noise = torch.randn(starts.shape, generator=generator)
    options = {"starting_metric": torch.full((3,), 2.3), "num_inference_steps": 5}
    monkeypatch.setattr("g_pt.model.pipeline.randn_tensor", lambda *args, **kwargs: noise)
    updated = sample(random_pipeline, starts, **options)
    monkeypatch.setattr("g_pt.model.pipeline.randn_tensor", lambda *args, **kwargs: permute(noise))
    torch.testing.assert_close(
        sample(random_pipeline, permute(starts), **options), permute(updated), rtol=1e-4, atol=1e-5
    )


def test_the_starting_metric_is_that_of_the_validation_split(random_pipeline, starts, digits):
    measured = digits.evaluate(starts, "validation")["loss"]
    output = random_pipeline(starts, 0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(output.starting_metric, measured)
    assert torch.equal(sample(random_pipeline, starts, starting_metric=measured), output.params)


def test_one_network_may_come_without_batch_axis(random_pipeline, starts):
    assert torch.equal(sample(random_pipeline, starts[0]), sample(random_pipeline, starts[:1]))


def test_one_number_means_the_same_as_one_for_each_network(random_pipeline, starts):
    shared = sample(random_pipeline, starts, starting_metric=2.3)
    separate = sample(random_pipeline, starts, prompt=torch.full((3,), 0.5), starting_metric=torch.full((3,), 2.3))
    assert torch.equal(shared, separate)


@pytest.mark.parametrize(("prompt", "outside"), [(0.05, False), (2.5, False), (0.049, True), (2.6, True)])
def test_a_prompt_outside_the_trained_range_warns_with_both(tiny_pipeline, starts, prompt, outside):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny_pipeline(starts, torch.tensor([0.1, prompt, 0.2]))
    messages = [str(w.message) for w in caught if issubclass(w.category, PromptRangeWarning)]
    assert len(messages) == outside
    if outside:
        assert f"loss {prompt} lies outside" in messages[0]
        assert "0.05 to 2.5 nats" in messages[0]
        assert next(w for w in caught if w.category is PromptRangeWarning).filename.endswith("test_pipeline.py")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_start_that_is_not_finite_is_refused_by_tensor(tiny_pipeline, starts, digits, value):
    starts[1, digits.layout.slices["fc2.weight"].start] = value
    with pytest.raises(ValueError, match=r"'fc2\.weight' holds NaN or infinity"):
        tiny_pipeline(starts, 0.5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"prompted_metric": torch.nan}, "prompted loss must be finite"),
        ({"starting_metric": torch.tensor([1, torch.nan, 1])}, "starting loss must be finite"),
        ({"prompted_metric": torch.ones(2)}, r"prompted loss must be one number or 3, got \(2,\)"),
        ({"starting_metric": torch.ones(2)}, r"starting loss must be one number or 3, got \(2,\)"),
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1 and at most 1000, got 0"),
        ({"num_inference_steps": 1001}, "at most 1000, got 1001"),
        ({"starting_params": torch.zeros(2, 1209)}, r"1210 parameters \(fc1\.weight \(16, 64\), .*got \(2, 1209\)"),
        ({"starting_params": torch.zeros(2, 2, 1210)}, r"got \(2, 2, 1210\)"),
    ],
)
def test_inputs_that_make_no_sense_are_refused(tiny_pipeline, starts, inputs, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline(**{"starting_params": starts, "prompted_metric": 0.5} | inputs)


def test_without_a_task_the_metric_must_be_given(tiny_pipeline, starts):
    tiny_pipeline.register_to_config(task=None)
    with pytest.raises(ValueError, match="pass starting_metric="):
        tiny_pipeline(starts, 0.5)
    assert sample(tiny_pipeline, starts, starting_metric=torch.full((3,), 2.3)).shape == starts.shape


def test_a_task_with_other_networks_is_refused(tiny_pipeline, starts, monkeypatch, digits):
    class Other(type(digits)):
        def network(self):
            return torch.nn.Sequential(torch.nn.Linear(64, 10))

    monkeypatch.setattr("g_pt.model.pipeline.registered_task", lambda name: Other())
    with pytest.raises(ValueError, match=r"networks of fc1\.weight .* but task 'digits' has 0\.weight"):
        tiny_pipeline(starts, 0.5)


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_a_loaded_pipeline_samples_the_same_and_knows_the_same(random_pipeline, starts, tmp_path, name):
    random_pipeline.set_scheduler(name)
    random_pipeline.save_pretrained(tmp_path)
    loaded = ParameterUpdatePipeline.from_pretrained(tmp_path)
    assert torch.equal(sample(loaded, starts), sample(random_pipeline, starts))
    assert type(loaded.scheduler) is type(random_pipeline.scheduler)
    for fact in ("task", "num_inference_steps", "training"):
        assert loaded.config[fact] == random_pipeline.config[fact]
    assert loaded.metric == random_pipeline.metric
    assert loaded.layout == random_pipeline.layout
    others = [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix not in (".json", ".safetensors")]
    assert {p.name for p in others} == {f"{SHIM}.py"}


def test_the_default_number_of_steps_is_that_of_the_configuration(random_pipeline, starts):
    assert torch.equal(sample(random_pipeline, starts), sample(random_pipeline, starts, num_inference_steps=3))
    assert len(random_pipeline.scheduler.timesteps) == 3


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_another_sampler_keeps_the_noise_of_the_training(tiny_pipeline, name):
    tiny_pipeline.set_scheduler(name)
    for key, value in noise_schedule().items():
        assert tiny_pipeline.scheduler.config[key] == value


def test_half_precision_as_offered_by_from_pretrained(tiny_pipeline, starts, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path)
    loaded = ParameterUpdatePipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.transformer.dtype == torch.bfloat16
    updated = sample(loaded, starts, num_inference_steps=1)
    assert updated.dtype == torch.float32
    torch.testing.assert_close(updated, starts, rtol=0.02, atol=1e-3)


def damage_config(folder):
    (folder / "model_index.json").write_text("{")


def truncate_weights(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def drop_a_tensor(folder):
    tensors = load_file(folder / WEIGHTS)
    del tensors["blocks.0.qkv.weight"]
    save_file(tensors, folder / WEIGHTS)


def reshape_a_tensor(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["norm.weight"] = torch.zeros(15)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    "damage",
    [damage_config, truncate_weights, drop_a_tensor, reshape_a_tensor, lambda folder: (folder / WEIGHTS).unlink()],
)
def test_damaged_files_are_an_oserror_that_names_the_folder(random_pipeline, tmp_path, damage):
    random_pipeline.save_pretrained(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(OSError, match=str(tmp_path / "model")):
        ParameterUpdatePipeline.from_pretrained(tmp_path / "model")


def test_a_folder_that_is_no_pipeline_is_an_oserror(tmp_path):
    with pytest.raises(OSError, match=r"without model_index\.json"):
        ParameterUpdatePipeline.from_pretrained(tmp_path)


def test_saved_facts_are_plain_json(digits, tmp_path):
    pipeline = build_pipeline(digits, note="ü")
    randomise(pipeline.transformer)
    pipeline.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "model_index.json").read_text())
    assert saved["training"]["note"] == "ü"
    assert saved["task"] == "digits"
