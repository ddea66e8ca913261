"""What a pipeline may be called with: the habits of diffusers and PyTorch, or one clear sentence."""

import copy

import numpy as np
import pytest
import torch
from builders import build_pipeline, randomise
from diffusers.utils import logging
from torch import nn

from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.examples import split_examples


@pytest.fixture
def starts(digits):
    return digits.init(3, torch.Generator().manual_seed(7))


def sample(pipeline, starts, **options):
    return pipeline(starts, 0.5, **{"generator": torch.Generator().manual_seed(0)} | options).params


def modules_of(digits, starts):
    modules = [digits.network() for _ in starts]
    for module, start in zip(modules, starts, strict=True):
        module.load_state_dict(digits.layout.unflatten(start))
    return modules


def test_starts_may_be_arrays_lists_modules_and_state_dicts(random_pipeline, starts, digits):
    expected = sample(random_pipeline, starts)
    modules = modules_of(digits, starts)
    forms = {
        "array": starts.numpy(),
        "float64": starts.double().numpy(),
        "list of tensors": list(starts),
        "tuple of arrays": tuple(start.numpy() for start in starts),
        "list of modules": modules,
        "list of state dicts": [module.state_dict() for module in modules],
        "state dict of stacked tensors": digits.layout.unflatten(starts),
    }
    for name, form in forms.items():
        assert torch.equal(sample(random_pipeline, form), expected), name
    first = sample(random_pipeline, starts[:1])
    for form in (modules[0], modules[0].state_dict(), starts[0].tolist()):
        assert torch.equal(sample(random_pipeline, form), first)
    assert torch.equal(modules[0].state_dict()["fc1.weight"], digits.layout.unflatten(starts[0])["fc1.weight"])


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (torch.zeros(0, 1210), r"starting_params must hold at least one network, got \(0, 1210\)"),
        ([], r"starting_params must hold at least one network, got \(0,\)"),
        (np.zeros((0, 1210)), r"at least one network, got \(0, 1210\)"),
        ("digits", "must be a tensor or an array .* a module, a state dict or a list of them, got str"),
        (None, "got NoneType"),
        (["a", "b"], "got str"),
        ({"fc1.weight": "no tensor"}, "got dict"),
        (np.array(["a"]), "got ndarray"),
        ({"fc1.weight": torch.zeros(16, 64)}, "tensor 'fc1.bias' of shape .* is wanted but missing"),
        (nn.Linear(2, 2), "Linear is not a network of this model: tensor 'fc1.weight'"),
        ([torch.zeros(1210), torch.zeros(1209)], r"must be alike, got \[\(1210,\), \(1209,\)\]"),
    ],
)
def test_other_starts_get_one_sentence(tiny_pipeline, start, message):
    with pytest.raises(ValueError, match=message) as caught:
        tiny_pipeline(start, 0.5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prompt", ["0.5", None, ["0.5"], {}, 1j, 10**400])
def test_a_prompt_that_is_no_number_gets_one_sentence(tiny_pipeline, starts, prompt):
    with pytest.raises(ValueError, match="prompted loss must be one number or 3, got"):
        tiny_pipeline(starts, prompt)


def test_prompts_may_be_lists_and_arrays(random_pipeline, starts):
    expected = random_pipeline(starts, torch.tensor([0.2, 0.5, 1.0]), generator=0).params
    for prompt in ([0.2, 0.5, 1.0], np.array([0.2, 0.5, 1.0])):
        assert torch.equal(random_pipeline(starts, prompt, generator=0).params, expected)


def test_a_seed_is_a_generator(random_pipeline, starts):
    expected = sample(random_pipeline, starts, generator=torch.Generator().manual_seed(11))
    assert torch.equal(sample(random_pipeline, starts, generator=11), expected)
    assert not torch.equal(sample(random_pipeline, starts, generator=12), expected)


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_a_generator_for_each_network_makes_it_independent_of_its_batch(random_pipeline, starts, scheduler):
    random_pipeline.set_scheduler(scheduler)
    together = sample(random_pipeline, starts, generator=[torch.Generator().manual_seed(i) for i in range(3)])
    assert torch.equal(sample(random_pipeline, starts, generator=[0, 1, 2]), together)
    for i in range(3):
        alone = sample(random_pipeline, starts[i], generator=[torch.Generator().manual_seed(i)])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        ([0, 1], "must have one for each of 3 networks, got 2"),
        ("0", "must be a torch.Generator, a seed or a list of them, got '0'"),
        (0.5, "got '0.5'"),
        (2**70, "a seed"),
        ([0, None, 1], "got 'None'"),
    ],
)
def test_other_generators_get_one_sentence(tiny_pipeline, starts, generator, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline(starts, 0.5, generator=generator)


@pytest.mark.parametrize("num_steps", [2.5, 3.0, "3"])
def test_steps_that_are_no_whole_number_get_one_sentence(tiny_pipeline, starts, num_steps):
    with pytest.raises(ValueError, match=r"num_inference_steps must be a whole number, got "):
        tiny_pipeline(starts, 0.5, num_inference_steps=num_steps)
    assert sample(tiny_pipeline, starts, num_inference_steps=np.int64(2)).shape == starts.shape


def test_a_callback_is_told_of_every_step_and_may_change_it(random_pipeline, starts):
    seen = []

    def note(pipeline, step, timestep, given):
        assert pipeline is random_pipeline
        seen.append((step, int(timestep), given["latents"].clone()))
        return given

    expected = sample(random_pipeline, starts)
    assert torch.equal(sample(random_pipeline, starts, callback_on_step_end=note), expected)
    assert [(step, t) for step, t, _ in seen] == list(enumerate(random_pipeline.scheduler.timesteps.tolist()))
    torch.testing.assert_close(random_pipeline.normalizer.unnormalize(seen[-1][2]), expected)

    def back_to_the_start(pipeline, step, timestep, given):
        return {"latents": pipeline.normalizer.normalize(starts)} if step == 2 else {}

    updated = sample(random_pipeline, starts, callback_on_step_end=back_to_the_start)
    torch.testing.assert_close(updated, starts, rtol=0, atol=1e-5)


def test_a_callback_is_given_what_it_asks_for(random_pipeline, starts):
    seen = []
    options = {"callback_on_step_end": lambda *given: seen.append(given[3]), "callback_on_step_end_tensor_inputs": []}
    assert torch.equal(sample(random_pipeline, starts, **options), sample(random_pipeline, starts))
    assert seen == [{}, {}, {}]
    with pytest.raises(ValueError, match=r"must be of \['latents'\], got \['prompt_embeds'\]"):
        sample(random_pipeline, starts, **options | {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]})


def test_the_output_may_be_a_tuple_and_arrays(random_pipeline, starts):
    output = random_pipeline(starts, 0.5, generator=0)
    params, starting = random_pipeline(starts, 0.5, generator=0, return_dict=False)
    assert torch.equal(params, output.params)
    assert torch.equal(starting, output.starting_metric)
    arrays = random_pipeline(starts, 0.5, generator=0, output_type="np")
    assert isinstance(arrays.params, np.ndarray)
    np.testing.assert_array_equal(arrays.params, output.params.numpy())
    np.testing.assert_array_equal(arrays.starting_metric, output.starting_metric.numpy())
    with pytest.raises(ValueError, match='output_type must be "pt" or "np", got \'pil\''):
        random_pipeline(starts, 0.5, output_type="pil")


@pytest.mark.parametrize("scheduler", ["ddim", "heun"])
def test_the_progress_bar_follows_its_settings(tiny_pipeline, starts, capsys, scheduler):
    tiny_pipeline.set_scheduler(scheduler)
    tiny_pipeline.set_progress_bar_config(disable=False, desc="updating")
    tiny_pipeline(starts, 0.5, num_inference_steps=4)
    shown = capsys.readouterr().err
    assert "updating" in shown
    assert "4/4" in shown
    tiny_pipeline.set_progress_bar_config(disable=True)
    tiny_pipeline(starts, 0.5)
    assert capsys.readouterr().err == ""


def test_loading_three_small_files_shows_no_bar_and_leaves_diffusers_settings(tiny_pipeline, tmp_path, capsys):
    tiny_pipeline.save_pretrained(tmp_path)
    capsys.readouterr()
    was_on = logging._tqdm_active
    try:
        for setting in (logging.enable_progress_bar, logging.disable_progress_bar):
            setting()
            ParameterUpdatePipeline.from_pretrained(tmp_path)
            assert "Loading" not in capsys.readouterr().err
            assert logging._tqdm_active == (setting is logging.enable_progress_bar)
    finally:
        logging._tqdm_active = was_on


class Positioned(nn.Module):
    """A frozen layer, a positional buffer and a layer with running statistics, which training moves."""

    def __init__(self):
        super().__init__()
        self.frozen, self.norm, self.last = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.frozen.requires_grad_(False)
        self.register_buffer("position", torch.linspace(-1, 1, 3))

    def forward(self, x):
        return self.last(self.norm(self.frozen(x + self.position)).relu())


class Partly(ClassificationTask):
    name = "partly frozen"
    splits = split_examples(torch.randn(300, 3, generator=torch.Generator().manual_seed(0)), torch.arange(300) % 2)

    def network(self):
        return Positioned()


def test_what_training_does_not_move_an_update_does_not_move(monkeypatch):
    task = Partly()
    assert task.constant_names == ("position", "frozen.weight", "frozen.bias")
    pipeline = randomise_all(build_pipeline(task))
    monkeypatch.setattr("g_pt.model.pipeline.registered_task", lambda name: task)
    monkeypatch.setattr("g_pt.model.pipeline.is_registered", lambda name: name == task.name)
    starts = task.init(3, torch.Generator().manual_seed(3))
    params = sample(pipeline, starts)
    updated, before = (task.layout.unflatten(x) for x in (params, starts))
    for name in task.constant_names:
        assert torch.equal(updated[name], before[name])
    for name in ("last.weight", "norm.weight", "norm.running_mean"):
        assert (updated[name] - before[name]).abs().max() > 1e-3
    assert torch.equal(params, task.recalibrate(params)), "statistics are those of the network as it is now"
    module = task.network()
    module.load_state_dict({**module.state_dict(), **{n: t[0] for n, t in before.items()}})
    result = pipeline.update_module(copy.deepcopy(module), 0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(result.position, module.position)
    assert torch.equal(result.frozen.weight, module.frozen.weight)
    assert not torch.equal(result.last.weight, module.last.weight)


def randomise_all(pipeline):
    randomise(pipeline.transformer)
    return pipeline


def test_networks_whose_tensors_are_all_trained_have_no_constants(digits):
    assert digits.constant_names == ()
