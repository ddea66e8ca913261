"""The bundled models give the outputs that they gave when they were trained, whatever is done to the code's speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from g_pt.hub.download import bundled_models
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.transformer import ParameterTransformer

# every 97th entry of the update of each of three networks, in float32, as the revision gave them that brought the model
RECORDED = Path(__file__).parent / "bundled_outputs.json"
EVERY = 97
EARLIER = Path(__file__).parents[1] / "fixtures" / "earlier_models"  # folders that name modules of an earlier tree


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


@pytest.mark.parametrize("folder", sorted(EARLIER.iterdir()), ids=lambda folder: folder.name)
def test_a_model_folder_of_an_earlier_tree_still_loads_and_gives_the_same(folder: Path) -> None:
    assert '"g_pt.transformer"' in (folder / "model_index.json").read_text()
    known = json.loads(RECORDED.read_text())
    recorded = torch.tensor(known.get(f"{folder.name}, earlier", known[folder.name]))
    outputs = update(ParameterUpdatePipeline.from_pretrained(folder).transformer)[:, ::EVERY]
    assert (outputs - recorded).abs().max() <= 1e-5
