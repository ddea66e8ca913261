"""Runs whose metrics no dataset may hold are left out of a harvest, with the reason."""

from dataclasses import replace

import pytest
import torch
from dataset_fixtures import SMALL, copied_harvest, file_hashes, finished_harvest

from checkpoints_dataset.harvest import harvest, unusable_metric
from checkpoints_dataset.store import CheckpointStore
from g_pt.tasks import get_task


@pytest.mark.parametrize(
    ("value", "reason"),
    [(float("nan"), "not finite"), (float("-inf"), "not finite"), (-0.5, "negative")],
)
def test_a_run_with_an_unusable_metric_is_left_out(tmp_path, monkeypatch, value, reason):
    task = get_task("digits")
    measure = type(task).evaluate

    def broken(self, params, split="validation"):
        measured = measure(self, params, split)
        measured["loss"][1] = value
        return measured

    monkeypatch.setattr(type(task), "evaluate", broken)
    assert [reason in why for why in harvest(replace(SMALL, num_runs=15), tmp_path).values()] == [True]
    store = CheckpointStore(tmp_path)
    assert [run.run for run in store.runs] == [0, *range(2, 15)]
    assert list(store.left_out) == [1]


def test_what_every_harvest_measures_is_kept():
    task = get_task("digits")
    assert unusable_metric({"loss": torch.tensor([2.3, 0.0]), "error": torch.tensor([90.0, 0.0])}, task) is None


def test_the_bytes_of_a_harvest_did_not_move(tmp_path):
    folder = copied_harvest(tmp_path)
    (folder / "shard-00001.json").unlink()
    harvest(SMALL, folder)
    assert file_hashes(folder) == file_hashes(finished_harvest())
