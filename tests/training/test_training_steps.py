"""Norms of updates, precision and compilation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_training import tiny_config, tiny_store, train

from checkpoints_dataset.store import CheckpointStore
from g_pt.model.transformer import ParameterTransformer
from g_pt.training.steps import update_norm


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CheckpointStore:
    return tiny_store(tmp_path_factory.mktemp("data"))


def losses_of(store: CheckpointStore, output: Path, **options: object) -> list[float]:
    config = tiny_config(output, num_steps=20)
    optimizer = replace(config.optimizer, **options)  # type: ignore[arg-type]
    train(replace(config, optimizer=optimizer, progress=replace(config.progress, evaluate_every=0)), store)
    return [json.loads(line)["loss"] for line in (output / "log.jsonl").read_text().splitlines()]


def test_the_norm_of_an_update_is_how_far_all_weights_have_moved() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1, bias=False))
    with update_norm(model, enabled=True) as measured, torch.no_grad():
        model[0].weight[0, 0] += 3
        model[1].weight[0, 1] -= 4
    assert measured["update_norm"] == pytest.approx(5, rel=1e-5)
    with update_norm(model, enabled=False) as measured:
        pass
    assert measured == {}


def test_a_compiled_model_has_the_loss_curve_of_the_plain_one_and_saves_the_same_names(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graphs are captured and run as they are; tests/model/test_transformer_speed.py makes machine code of them."""
    graphs: list[Callable[..., object]] = []

    def run_as_it_is(graph: Callable[..., object], _: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=run_as_it_is))
    plain = losses_of(store, tmp_path / "False", compile=False)
    assert not graphs
    compiled = losses_of(store, tmp_path / "True", compile=True)
    assert graphs
    assert len(plain) == 2
    assert compiled == pytest.approx(plain, rel=1e-5)
    files = ["{}/pipeline/transformer/config.json", "{}/checkpoints/step-00000020/model.safetensors"]
    assert all((tmp_path / file.format("True")).is_file() for file in files)
    names = [
        torch.load(tmp_path / c / "checkpoints/step-00000020/averages.pt", weights_only=True) for c in ("False", "True")
    ]
    for one, other in zip(*(state["weights"] for state in names), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_products_in_bf16_give_nearly_the_losses_of_float32(store: CheckpointStore, tmp_path: Path) -> None:
    exact, rough = (losses_of(store, tmp_path / p, mixed_precision=p, learning_rate=0.01) for p in ("no", "bf16"))
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.03)


def test_gradient_checkpointing_is_switched_by_a_setting_and_changes_no_loss(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switched: list[bool] = []
    switch = ParameterTransformer.enable_gradient_checkpointing
    monkeypatch.setattr(
        ParameterTransformer, "enable_gradient_checkpointing", lambda model: (switched.append(True), switch(model))
    )
    plain = losses_of(store, tmp_path / "plain")
    assert not switched
    assert losses_of(store, tmp_path / "anew", gradient_checkpointing=True) == pytest.approx(plain, rel=1e-5)
    assert switched == [True]
