"""Trackers are told of what the log is told of; one that is missing stops the run at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from tiny_training import tiny_config, tiny_store, train

from g_pt.training import trackers
from g_pt.training.accelerators import make_accelerator
from g_pt.training.config import ProgressConfig
from g_pt.training.trackers import check_trackers, flat


class Recorder(GeneralTracker):
    """A tracker of Accelerate's own kind, which keeps what it is told."""

    name, requires_logging_directory, main_process_only = "recorder", False, False

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.images: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0
        super().__init__()

    @property
    def tracker(self) -> Recorder:
        return self

    def start(self) -> None: ...

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, Any], step: int, **_: Any) -> None:
        self.logged.append((step, values))

    def log_images(self, values: dict[str, Any], step: int, **_: Any) -> None:
        self.images.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def test_a_tracker_of_accelerate_gets_settings_numbers_and_pictures(tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    tracker = Recorder()
    accelerator = Accelerator(cpu=True, log_with=[tracker])
    train(tiny_config(tmp_path / "out"), tiny_store(tmp_path / "data"), accelerator=accelerator, held_out=True)
    assert tracker.settings["optimizer/num_steps"] == 12
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [step for step, _ in tracker.logged] == [line["step"] for line in lines]
    by_name = {name: value for _, values in tracker.logged for name, value in values.items()}
    assert by_name["loss"] == next(line["loss"] for line in lines if "loss" in line)
    assert by_name["held_out_by_tensor/fc1.weight"] == lines[-1]["held_out_by_tensor"]["fc1.weight"]
    assert by_name["achieved/00"] == lines[-1]["achieved"][0]
    assert [step for step, _ in tracker.images] == [6, 12]
    picture = tracker.images[-1][1]["prompt_curve"]
    assert picture.dtype == np.uint8
    assert picture.ndim == 4
    assert picture.shape[::3] == (1, 3)
    assert picture.min() < 100 < picture.max()
    assert tracker.finished == 1


def test_a_tracker_that_is_not_installed_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'tensorboard is not installed; pip install "g-pt\[tensorboard\]"'):
        make_accelerator(tmp_path / "out", mixed_precision="no", trackers=("tensorboard", "wandb"))
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(trackers, "find_spec", lambda name: name == "tensorboardX")
    check_trackers(("tensorboard",))
    check_trackers(())


def test_only_known_trackers_can_be_named() -> None:
    assert ProgressConfig().trackers == ()
    assert ProgressConfig(report_to="wandb,trackio").trackers == ("wandb", "trackio")
    with pytest.raises(ValueError, match="report_to must be none or of tensorboard, wandb, trackio, got mlflow"):
        ProgressConfig(report_to="wandb,mlflow")


def test_nested_settings_become_names_with_slashes(tmp_path: Path) -> None:
    settings = {"a": {"b": [1, 2.5]}, "path": tmp_path, "none": None, "yes": True}
    assert flat(settings) == {"a/b/00": 1, "a/b/01": 2.5, "path": str(tmp_path), "none": "None", "yes": True}
    assert flat(replace(ProgressConfig(), patience=3).patience, "patience") == {"patience": 3}
