from dataclasses import replace

import pytest
import torch
from builders import build_pipeline

from g_pt.training.config import ProgressConfig, TrainConfig
from g_pt.training.probe import PromptProbe


@pytest.fixture
def probe(digits):
    pipeline = build_pipeline(digits)
    pipeline.register_to_config(training={"prompt_range": [0.05, 2.5], "attainable_range": [0.1, 2.3]})
    return PromptProbe(TrainConfig(progress=ProgressConfig(num_networks=5, num_prompts=3)), digits, pipeline)


def test_the_untrained_model_is_measured_on_the_validation_split(probe, digits):
    measured = probe.measure()
    assert measured["prompts"] == pytest.approx([0.1, 1.2, 2.3])
    expected = digits.evaluate(probe.starts, "validation")["loss"].mean().item()
    assert measured["achieved"] == pytest.approx([expected] * 3, rel=1e-4)
    assert measured["alignment"] < 0


def test_measuring_twice_gives_the_same(probe):
    assert probe.measure() == probe.measure()


def test_the_networks_are_not_those_of_gpt_evaluate(probe, digits):
    evaluated = digits.init(5, torch.Generator().manual_seed(probe.config.seed))
    assert torch.cdist(probe.starts, evaluated).min() > 1
    other = PromptProbe(replace(probe.config, seed=1), digits, probe.pipeline)
    assert not torch.equal(other.starts, probe.starts)
