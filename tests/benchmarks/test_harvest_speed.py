"""The benchmark's plain PyTorch side counts whole runs, also where it takes only their first steps."""

from __future__ import annotations

import sys

import pytest
import torch
from dataset_fixtures import ROOT

import benchmarks.harvest_speed as harvest_speed
from checkpoints_dataset.config import HarvestConfig
from g_pt.tasks.digits import Digits


@pytest.mark.parametrize("num_steps", [1, 7, 20])
def test_seconds_of_a_whole_run_follow_from_its_first_steps(monkeypatch, num_steps):
    clock = [0.0]

    def pass_seconds(seconds: float) -> None:
        clock[0] += seconds

    class ClockedDigits(Digits):
        def network(self):
            network = super().network()
            network.register_forward_pre_hook(lambda *_: pass_seconds(1.0))  # a step takes a second
            return network

    def slow_evaluation(*_) -> torch.Tensor:
        pass_seconds(5.0)
        return torch.zeros(2)

    monkeypatch.setattr(harvest_speed.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(harvest_speed, "loss_and_error", slow_evaluation)
    config = HarvestConfig(num_steps=20, num_checkpoints=6)
    seconds = harvest_speed.train_one(ClockedDigits(), config, seed=0, num_steps=num_steps)
    assert seconds == pytest.approx(20 * 1 + 6 * 5)


@pytest.mark.slow
def test_two_checkouts_take_turns(capsys):
    settings = {"num_runs": 4, "num_steps": 12, "num_checkpoints": 4}
    ratios = harvest_speed.compare(settings, ROOT, sys.executable, num_rounds=2)
    assert len(ratios) == 2
    assert min(ratios) > 0
    assert "speed of this over the other: median" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["digits", "digits-deep"])
def test_both_sides_are_measured_for_any_task(task, capsys):
    config = HarvestConfig(task=task, num_runs=4, num_steps=12, num_checkpoints=4, batch_size=16)
    results = harvest_speed.measure(config, num_sequential=1, sequential_steps=6, num_rounds=2)
    assert len(results["ratios"]) == 2
    assert all(len(speeds) == 2 and min(speeds) > 0 for speeds in results["networks_per_second"].values())
    harvest_speed.print_table(results)
    printed = capsys.readouterr().out
    assert f"{task}: 12 steps, 4 checkpoints, batches of 16\none by one: scaled from the first 6 of 12 steps" in printed
