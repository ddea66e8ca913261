from functools import partial

import pytest
import torch
from builders import build_pipeline, randomise

from g_pt.model.pairs import CheckpointPairs
from g_pt.model.schedulers import default_scheduler, make_scheduler, noise_schedule
from g_pt.training.config import ProgressConfig
from g_pt.training.held_out import measure_held_out
from g_pt.training.probe import PromptProbe

OPTIONS = ProgressConfig(num_networks=5, num_prompts=3)


@pytest.fixture
def probe(digits):
    pipeline = build_pipeline(digits)
    pipeline.register_to_config(training={"prompt_range": [0.05, 2.5], "attainable_range": [0.1, 2.3]})
    return PromptProbe(digits, pipeline, OPTIONS, 0)


def with_pairs(probe, held_out):
    """The probe with held-out pairs."""
    measure = partial(measure_held_out, probe.pipeline, held_out, batch_size=8, seed=0)
    return PromptProbe(probe.task, probe.pipeline, OPTIONS, 0, measure)


def test_the_untrained_model_is_measured_on_the_validation_split(probe, digits):
    measured = probe.measure()
    assert measured["prompts"] == pytest.approx([0.1, 1.2, 2.3])
    expected = digits.evaluate(probe.starts, "validation")["loss"].mean().item()
    assert measured["achieved"] == pytest.approx([expected] * 3, rel=1e-4)
    assert measured["alignment"] < 0


def test_measuring_twice_gives_the_same(probe):
    assert probe.measure() == probe.measure()


def test_the_networks_are_not_those_of_gpt_evaluate(probe, digits):
    evaluated = digits.init(5, torch.Generator().manual_seed(probe.seed))
    assert torch.cdist(probe.starts, evaluated).min() > 1
    other = PromptProbe(digits, probe.pipeline, OPTIONS, 1)
    assert not torch.equal(other.starts, probe.starts)


def test_the_loss_on_held_out_runs_is_that_of_the_model_and_always_of_the_same_pairs(probe, digits):
    starts = digits.init(8, torch.Generator().manual_seed(3))
    seen = []

    def held_out(step, share):
        seen.append((step, share))
        return CheckpointPairs(starts, starts + 0.5, torch.full((8,), 2.0), torch.full((8,), 0.2))

    probe = with_pairs(probe, held_out)
    loss = probe.measure()["held_out_loss"]
    # the untrained model predicts the start, which is off by 0.5 in raw parameters
    assert loss == pytest.approx((0.5 / probe.pipeline.normalizer.std[0].item()) ** 2, rel=1e-4)
    assert seen == [(step, slice(None)) for step in range(4)]
    assert probe.measure()["held_out_loss"] == loss
    randomise(probe.pipeline.transformer)
    assert probe.measure()["held_out_loss"] != loss


def test_the_error_of_each_tensor_is_its_own_and_together_they_are_the_loss(probe, digits):
    starts = digits.init(8, torch.Generator().manual_seed(3))
    offsets = {name: 0.1 * (i + 1) for i, name in enumerate(digits.layout.names)}
    future = starts.clone()
    for name, part in digits.layout.slices.items():
        future[:, part] += offsets[name]

    def held_out(step, share):
        return CheckpointPairs(starts, future, torch.full((8,), 2.0), torch.full((8,), 0.2))

    probe = with_pairs(probe, held_out)
    measured = probe.measure()
    std = probe.pipeline.normalizer.std[0].item()
    # the untrained model predicts the start
    for name, error in measured["held_out_by_tensor"].items():
        assert error == pytest.approx((offsets[name] / std) ** 2, rel=1e-4)
    sizes = dict(zip(digits.layout.names, digits.layout.sizes, strict=True))
    mean = sum(sizes[name] * error for name, error in measured["held_out_by_tensor"].items()) / sum(sizes.values())
    assert measured["held_out_loss"] == pytest.approx(mean, rel=1e-4)


def test_the_dispersion_ratio_compares_samples_with_the_better_half_of_trained_networks(probe, digits):
    samples = digits.init(5, torch.Generator().manual_seed(1))
    trained = digits.init(8, torch.Generator().manual_seed(2))
    trained[4:] = 0.0  # the worse half lies together and must not count

    def held_out(step, share):
        return CheckpointPairs(trained, trained, torch.full((8,), 2.0), torch.linspace(0.1, 2.0, 8))

    probe = with_pairs(probe, held_out)

    def spread(networks):
        return (networks - networks.mean(0)).square().mean().sqrt()

    ratio = probe.on_held_out(samples, probe.held_out())["dispersion_ratio"]
    assert ratio == pytest.approx((spread(samples) / spread(trained[:4])).item(), rel=1e-4)
    assert probe.on_held_out(samples[:1].expand(5, -1), probe.held_out())["dispersion_ratio"] == pytest.approx(
        0, abs=1e-4
    )
    assert "dispersion_ratio" not in probe.on_held_out(samples[:1], probe.held_out())


def test_the_ends_of_the_middle_of_the_networks_enclose_the_mean(probe):
    measured = probe.measure()
    for low, mean, high in zip(measured["achieved_low"], measured["achieved"], measured["achieved_high"], strict=True):
        assert low < mean < high


@pytest.mark.parametrize("prediction", ["sample", "v_prediction", "flow_prediction"])
def test_errors_of_tensors_are_of_what_the_model_predicts(digits, prediction):
    pipeline = build_pipeline(digits)
    randomise(pipeline.transformer)
    starts = digits.init(8, torch.Generator().manual_seed(3))
    pairs = CheckpointPairs(starts, 0.7 * starts, torch.full((8,), 2.0), torch.full((8,), 0.2))
    pipeline.scheduler = make_scheduler(default_scheduler(prediction), noise_schedule(prediction_type=prediction))
    found = measure_held_out(pipeline, lambda step, share: pairs, batch_size=8, seed=0)
    sizes = {name: part.stop - part.start for name, part in digits.layout.slices.items()}
    mean = sum(sizes[name] * error for name, error in found.by_tensor.items()) / sum(sizes.values())
    assert mean == pytest.approx(found.loss, rel=1e-5)
