"""The best weights by held-out data, and stopping early: what is kept, and that a resume changes nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import tiny_config, tiny_store, train, weights

from checkpoints_dataset.store import CheckpointStore
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.training.config import ProgressConfig, TrainConfig
from g_pt.training.early_stopping import WeightChoice
from g_pt.training.ema import AveragedWeights


def made(**options) -> tuple[torch.nn.Linear, AveragedWeights, WeightChoice]:
    layer = torch.nn.Linear(1, 1, bias=False)
    averaged = AveragedWeights(layer, 0.0)
    return layer, averaged, WeightChoice(ProgressConfig(**options), "diffusion", averaged)


def test_the_weights_of_the_lowest_held_out_loss_are_kept():
    layer, averaged, choice = made(choose="best")
    for step, loss in enumerate([3.0, 1.0, math.nan, 2.0]):
        torch.nn.init.constant_(layer.weight, step)
        averaged.step()
        averaged.set_weights([layer.weight])
        choice.consider(step, {"held_out_loss": loss})
    assert (choice.best, choice.best_step, choice.misses) == (1.0, 1, 2)
    choice.apply()
    averaged.copy_to_model()
    assert layer.weight.item() == 1


def test_the_second_stage_is_judged_by_its_alignment_where_more_is_better():
    layer = torch.nn.Linear(1, 1)
    choice = WeightChoice(ProgressConfig(patience=2), "alignment", AveragedWeights(layer, 0.0))
    for value, over in [(0.5, False), (0.7, False), (0.6, False), (0.7, True)]:
        choice.consider(1, {"alignment": value, "held_out_loss": 0.0})
        assert choice.is_over == over


def test_nothing_is_chosen_and_nothing_ends_where_it_is_not_asked_for():
    _, averaged, choice = made()
    before = averaged.ema.shadow_params[0].clone()
    for loss in (1.0, 2.0, 3.0):
        choice.consider(1, {"held_out_loss": loss})
    choice.apply()
    assert not choice.is_wanted
    assert not choice.is_over
    assert choice.weights == []
    assert torch.equal(averaged.ema.shadow_params[0], before)


def test_a_state_without_weights_does_not_count_where_weights_are_wanted_now():
    _, _, old = made(patience=3)
    old.consider(5, {"held_out_loss": 0.1})
    _, _, new = made(choose="best")
    new.load_state_dict(old.state_dict())
    assert new.best == math.inf
    _, _, same = made(patience=3)
    same.load_state_dict(old.state_dict())
    assert (same.best, same.best_step) == (0.1, 5)


def test_without_held_out_pairs_there_is_nothing_to_choose_by():
    with pytest.raises(ValueError, match="need held_out_loss: give held-out pairs"):
        made(choose="best")[2].consider(1, {"alignment": 0.5})
    with pytest.raises(ValueError, match="evaluate_every must be at least 1"):
        ProgressConfig(choose="best", evaluate_every=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CheckpointStore:
    return tiny_store(tmp_path_factory.mktemp("data"))


def impatient(output: Path) -> TrainConfig:
    """Settings whose loss cannot fall: it diverges, and training ends at the third evaluation."""
    config = tiny_config(output, num_steps=40)
    optimizer = replace(config.optimizer, learning_rate=0.5, ema_decay=0.1)
    progress = replace(config.progress, evaluate_every=3, patience=2, choose="best", num_networks=2, num_prompts=2)
    return replace(config, optimizer=optimizer, progress=progress)


def test_a_stage_ends_early_with_its_best_weights_and_resumes_to_the_same(store: CheckpointStore, tmp_path: Path):
    whole = impatient(tmp_path / "whole")
    train(whole, store, held_out=True)
    lines = [json.loads(line) for line in (whole.output / "log.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line}
    best = min(losses, key=losses.__getitem__)
    assert max(losses) == best + 2 * 3 < 40
    stopped = torch.load(whole.output / "checkpoints" / f"step-{max(losses):08d}" / "choice.pt", weights_only=True)
    assert (stopped["best_step"], stopped["misses"]) == (best, 2)
    saved = weights(whole)
    model = ParameterUpdatePipeline.from_pretrained(whole.pipeline_folder).transformer
    assert all(torch.equal(p, kept) for p, kept in zip(model.parameters(), stopped["weights"], strict=True))

    killed = impatient(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        train(killed, store, held_out=True, stop_at=max(losses) - 1)
    train(killed, store, held_out=True, resume=True)
    again = weights(killed)
    assert all(torch.equal(again[name], saved[name]) for name in saved)
    log = (killed.output / "log.jsonl").read_text()
    assert log == (whole.output / "log.jsonl").read_text()
    train(killed, store, held_out=True, resume=True)  # it has ended: nothing is trained on
    assert (killed.output / "log.jsonl").read_text() == log
