"""Meta-training: it learns, is resumed exactly, and chooses by held-out networks."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from g_pt.evolution.unrolls import EvolutionStrategies, TruncatedBackpropagation
from g_pt.learned_optimizers.lstm import Lstm
from g_pt.learned_optimizers.mlp import SmallFc, Star
from g_pt.learned_optimizers.trained import load_trained
from g_pt.tasks import get_task
from g_pt.training.meta_config import MetaConfig, MetaProgress
from g_pt.training.meta_training import MetaTrainer, meta_train
from train.train_learned_optimizer import PRESETS, parse_command

TINY = MetaConfig(
    task="moons",
    horizon=20,
    batch_size=16,
    optimizer=SmallFc(),
    estimator=EvolutionStrategies(num_pairs=8, window=5),
    num_steps=6,
    progress=MetaProgress(evaluate_every=3, num_networks=8, save_every=2),
)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, subtests) -> None:
    estimators = {
        Star(): EvolutionStrategies(num_pairs=4, window=5),
        Lstm(width=3): TruncatedBackpropagation(window=5, num_processes=2),
    }
    for number, (learned, estimator) in enumerate(estimators.items()):
        whole, cut = tmp_path / f"whole{number}", tmp_path / f"cut{number}"
        config = dataclasses.replace(
            TINY, horizon=10, num_steps=4, optimizer=learned, estimator=estimator, output=whole
        )
        meta_train(config)
        shutil.copytree(whole, cut)
        (cut / "optimizer.safetensors").unlink()
        shutil.rmtree(cut / "checkpoints" / "step-00000004")
        meta_train(dataclasses.replace(config, output=cut), resume=True)
        with subtests.test(learned=str(learned)):
            assert (whole / "log.jsonl").read_bytes() == (cut / "log.jsonl").read_bytes()
            results = [load_trained(str(folder / "optimizer.safetensors"))[1] for folder in (whole, cut)]
            assert torch.equal(*results)


def test_an_optimizer_learns_to_train_networks_it_has_not_seen() -> None:
    config = dataclasses.replace(TINY, learning_rate=0.03, num_steps=40, max_norm_ratio=2.0)
    trainer = MetaTrainer(config, get_task("moons"))
    before = trainer.evaluate(0)["held_out"]
    for number in range(40):
        trainer.step(number)
    assert trainer.evaluate(40)["held_out"] < 0.8 * before


def test_the_best_weights_on_held_out_networks_are_kept(tmp_path, monkeypatch) -> None:
    values = iter([0.5, 0.3, 0.4])
    monkeypatch.setattr(
        "g_pt.learned_optimizers.inner_training.InnerTraining.evaluate",
        lambda self, weights, num, generator: {"loss": torch.full((num,), next(values))},
    )
    progress = dataclasses.replace(TINY.progress, evaluate_every=2)
    path = meta_train(dataclasses.replace(TINY, progress=progress, output=tmp_path / "run"))
    _, _, training = load_trained(str(path))
    assert (training["best_step"], training["held_out"]) == (4, pytest.approx(0.3))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [round(line["held_out"], 1) for line in lines] == [0.5, 0.3, 0.4]
    assert (tmp_path / "run" / "curve.png").exists()


def test_what_cannot_be_meta_trained_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="has no training loss"):
        meta_train(dataclasses.replace(TINY, task="cartpole", output=tmp_path / "a"))
    with pytest.raises(ValueError, match="multiple of the window, got 20 and 3"):
        meta_train(dataclasses.replace(TINY, estimator=EvolutionStrategies(window=3), output=tmp_path / "b"))


def test_every_preset_is_parsed() -> None:
    names = [path.stem for path in PRESETS.glob("*.yaml")]
    assert {"star-digits", "small-fc-digits"} <= set(names)
    for name in names:
        program = parse_command(["--preset", name, "--output", "elsewhere", "--estimator.window", "5"])
        assert (program.task, program.output, program.estimator.window) == ("digits", Path("elsewhere"), 5)
