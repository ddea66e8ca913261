"""Fixtures that several test files share."""

import os

# read when huggingface_hub is imported: no second transfer protocol, no telemetry
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # read when torch is imported: workers share the cores, one thread each
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import huggingface_hub.constants
import pytest
import torch
from builders import build_pipeline, randomise
from local_hub import LocalHub

from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.tasks.digits import Digits

PATIENCE = 1200  # seconds for a slow test: it takes a minute, on cores that others may be using


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(PATIENCE))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def digits() -> Digits:
    return Digits()


@pytest.fixture
def tiny_pipeline(digits) -> ParameterUpdatePipeline:
    """Untrained: every update is the identity."""
    return build_pipeline(digits)


@pytest.fixture
def random_pipeline(digits) -> ParameterUpdatePipeline:
    """With random weights everywhere, so that every update differs from the identity."""
    pipeline = build_pipeline(digits)
    randomise(pipeline.transformer)
    return pipeline


@pytest.fixture
def local_hub():
    """A Hub of our own on 127.0.0.1, empty at first."""
    with LocalHub() as hub:
        yield hub


@pytest.fixture
def default_hub(local_hub, monkeypatch, tmp_path):
    """The local Hub as the one that this process asks where none is named, with an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", local_hub.url)
    template = local_hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_local")
    return local_hub
