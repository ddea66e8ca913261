from itertools import islice

import pytest
import torch
from builders import build_pipeline

from g_pt.model import prompting
from g_pt.model.prompting import measure_updates, prompt_grid, prompt_recursively, update_networks, update_repeatedly


class ObedientPipeline:
    """Stands in for a perfect model: writes what it was asked into the parameters it returns."""

    def __init__(self, metric):
        self.metric = metric
        self.task = ReadingTask()
        self.calls = []

    def __call__(self, params, prompt, starting_metric=None, **options):
        self.calls.append((params, prompt, starting_metric, options))
        updated = params.clone()
        updated[:, 0] = prompt
        return type("Output", (), {"params": updated})


class ReadingTask:
    """Its metric is the first parameter, times 10 on the test split and plus 1 on the validation split."""

    def evaluate(self, params, split="test"):
        return {"loss": params[:, 0] * 10 if split == "test" else params[:, 0] + 1, "other": params[:, 1]}


@pytest.fixture
def obedient(digits):
    return ObedientPipeline(digits.metric("loss"))


STARTS = torch.arange(12.0).view(4, 3)


def test_a_grid_is_even_and_has_both_ends():
    assert prompt_grid(2.0, 0.0, 5).tolist() == [2, 1.5, 1, 0.5, 0]


@pytest.mark.parametrize("batch", [1, 5, 512])
def test_every_network_gets_every_prompt(obedient, monkeypatch, batch):
    monkeypatch.setattr(prompting, "SAMPLING_BATCH", batch)
    updated = update_networks(obedient, STARTS, torch.tensor([0.1, 0.2, 0.3]))  # (4, 3, 3)
    torch.testing.assert_close(updated[:, :, 0], torch.tensor([0.1, 0.2, 0.3]).expand(4, 3))
    assert updated[:, :, 1].tolist() == [[start] * 3 for start in STARTS[:, 1].tolist()]
    assert max(len(call[0]) for call in obedient.calls) <= batch


def test_the_model_is_given_the_validation_metric_of_each_start(obedient):
    update_networks(obedient, STARTS, torch.tensor([0.1, 0.2]))
    ((params, prompts, starting, _),) = obedient.calls
    assert torch.equal(starting, params[:, 0] + 1)
    torch.testing.assert_close(prompts, torch.tensor([0.1, 0.2] * 4))


@pytest.mark.parametrize(("split", "expected"), [("test", [1.0, 2.0]), ("validation", [1.1, 1.2])])
def test_results_are_measured_on_the_split_asked_for(obedient, split, expected):
    achieved = measure_updates(ReadingTask(), update_networks(obedient, STARTS, torch.tensor([0.1, 0.2])), split)
    torch.testing.assert_close(achieved["loss"], torch.tensor(expected).expand(4, 2))


def test_options_reach_the_sampler(obedient, generator):
    update_networks(obedient, STARTS, torch.ones(2), num_inference_steps=7, generator=generator)
    assert obedient.calls[0][3] == {"num_inference_steps": 7, "generator": generator}


def test_with_the_untrained_model_every_prompt_achieves_the_start(digits, generator):
    starts = digits.init(3, generator)
    updated = update_networks(build_pipeline(digits), starts, torch.tensor([0.1, 2.0]), generator=generator)
    achieved = measure_updates(digits, updated, "test")
    expected = digits.evaluate(starts)["loss"][:, None].expand(3, 2)
    torch.testing.assert_close(achieved["loss"], expected, rtol=1e-3, atol=1e-3)


def test_each_result_is_the_next_start(obedient):
    class Adding(ObedientPipeline):
        def __call__(self, params, prompt, **options):
            return type("Output", (), {"params": params + prompt})

    updates = prompt_recursively(Adding(obedient.metric), STARTS, 0.5, 3)
    assert len(updates) == 3
    for k, update in enumerate(updates, start=1):
        torch.testing.assert_close(update, STARTS + 0.5 * k)
    (half,) = prompt_recursively(Adding(obedient.metric), STARTS, 0.5, 1, alpha=0.5)
    torch.testing.assert_close(half, STARTS + 0.25)
    with pytest.raises(ValueError, match=r"alpha must lie between 0, no move, and 1, the whole update, got 1\.5"):
        prompt_recursively(obedient, STARTS, 0.5, 1, alpha=1.5)


def test_recursion_measures_the_metric_anew_each_time(random_pipeline, digits, generator):
    starts = digits.init(2, generator)
    first, second = prompt_recursively(
        random_pipeline, starts, 0.5, 2, generator=torch.Generator().manual_seed(0), num_inference_steps=2
    )
    seeded = torch.Generator().manual_seed(0)
    assert torch.equal(random_pipeline(starts, 0.5, num_inference_steps=2, generator=seeded).params, first)
    again = random_pipeline(
        first, 0.5, digits.evaluate(first, "validation")["loss"], num_inference_steps=2, generator=seeded
    )
    assert torch.equal(again.params, second)


def test_repeated_updates_keep_networks_and_prompts_together(obedient):
    class Adding(ObedientPipeline):
        def __call__(self, params, prompt, starting_metric=None, **options):
            self.calls.append((params, prompt, starting_metric, options))
            moved = params.clone()
            moved[:, 0] += prompt
            return type("Output", (), {"params": moved})

    adding, prompts = Adding(obedient.metric), torch.tensor([0.5, 2.0])
    for number, updated in enumerate(islice(update_repeatedly(adding, STARTS, prompts), 3), start=1):
        torch.testing.assert_close(updated[:, :, 0], STARTS[:, :1] + number * prompts)
        assert torch.equal(updated[:, :, 1:], STARTS[:, None, 1:].expand(4, 2, 2))
        params, _, starting, _ = adding.calls[-1]
        assert torch.equal(starting, params[:, 0] + 1)  # measured anew, on the validation split
