"""Harvests by any rule, and datasets from before there were rules."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dataset_fixtures import SMALL, copied_harvest, file_hashes, finished_harvest

from checkpoints_dataset.format import StoreError
from checkpoints_dataset.harvest import harvest
from checkpoints_dataset.reference_runs import harvest_settings
from checkpoints_dataset.store import CheckpointStore
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.update_rules.gradient import AdamRule
from g_pt.update_rules.prompted import SavedPromptRule

EARLIER = {"optimizer": "nesterov", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


def earlier_dataset(parent: Path) -> Path:
    """The finished harvest as it was written before there were rules, without its last two shards."""
    folder = copied_harvest(parent)
    path = folder / "dataset.json"
    header = json.loads(path.read_text())
    del header["source"]["rule"]
    header["source"] |= EARLIER
    path.write_text(json.dumps(header))
    for shard in ("shard-00001", "shard-00002"):
        for file in folder.glob(f"{shard}.*"):
            file.unlink()
    return folder


def test_a_half_finished_harvest_from_before_there_were_rules_continues_to_the_same_shards(tmp_path: Path) -> None:
    folder = earlier_dataset(tmp_path)
    harvest(SMALL, folder)
    wanted, got = file_hashes(finished_harvest()), file_hashes(folder)
    assert got.pop("dataset.json") != wanted.pop("dataset.json")  # it stays as it was written
    assert got == wanted
    assert CheckpointStore(folder).header.source["optimizer"] == "nesterov"


def test_such_a_harvest_does_not_continue_with_another_rule(tmp_path: Path) -> None:
    folder = earlier_dataset(tmp_path)
    with pytest.raises(StoreError, match=r"source.rule.name = 'nesterov', now it is 'adam'"):
        harvest(replace(SMALL, rule=AdamRule()), folder)


@pytest.mark.parametrize("name", ["digits-loss", "digits-error"])
def test_the_runs_of_bundled_models_are_those_of_the_default_rule(name: str) -> None:
    facts = ParameterUpdatePipeline.from_pretrained(name).facts
    assert "rule" not in facts.dataset.source  # the file is from before there were rules
    assert harvest_settings(facts).rule == SMALL.rule


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (SavedPromptRule("cartpole-return"), "model 'cartpole-return' changes networks of"),
        (AdamRule(learning_rate=(0.1,) * 15), "one for each of 10 networks"),  # the last shard of SMALL
    ],
)
def test_a_rule_that_does_not_fit_leaves_no_folder_behind(tmp_path: Path, rule: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        harvest(replace(SMALL, rule=rule), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_g_pt_can_be_harvested(tmp_path: Path) -> None:
    rule = SavedPromptRule(prompt=0.2, num_inference_steps=1)
    harvest(replace(SMALL, num_runs=6, num_steps=2, num_checkpoints=3, rule=rule), tmp_path)
    store = CheckpointStore(tmp_path)
    assert store.header.source["rule"] == {
        "name": "g-pt", "model": "digits-loss", "prompt": 0.2, "num_inference_steps": 1, "alpha": 1.0,
    }  # fmt: skip
    assert [record.metadata for record in store.runs] == [{"optimizer": "g-pt"}] * 6
    losses = torch.tensor(store.metrics["loss"]).view(6, 3)
    assert (losses[:, 0] > 2).all()
    assert (losses[:, 1:] < 1).all()
