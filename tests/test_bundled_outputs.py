"""The bundled models give the outputs that they gave when they were trained, whatever is done to the code's speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from g_pt.hub import bundled_models
from g_pt.pipeline import ParameterUpdatePipeline
from g_pt.transformer import ParameterTransformer

# every 97th entry of the update of each of three networks, in float32, as the revision gave them that brought the model
RECORDED = Path(__file__).parent / "bundled_outputs.json"
EVERY = 97


def update(model: ParameterTransformer) -> Tensor:
    """What the model adds to three starts that depend on no random generator: (3, P)."""
    size = model.layout.num_params
    waves = torch.arange(6 * size, dtype=torch.float64).mul(1.7).sin().float().view(2, 3, size)
    metrics = torch.tensor([[2.0, 1.0, 0.5], [0.2, 0.1, 0.3]])
    with torch.no_grad():
        return model(waves[0], torch.tensor([10, 400, 999]), waves[1], *metrics) - waves[1]


@pytest.mark.parametrize("name", bundled_models())
def test_a_bundled_model_gives_the_outputs_it_always_gave(name: str) -> None:
    recorded = torch.tensor(json.loads(RECORDED.read_text())[name])
    outputs = update(ParameterUpdatePipeline.from_pretrained(name).transformer)[:, ::EVERY]
    assert recorded.std() > 0.1
    assert (outputs - recorded).abs().max() <= 1e-5
