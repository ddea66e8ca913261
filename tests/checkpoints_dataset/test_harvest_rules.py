"""Harvests by any rule, and datasets from before there were rules."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_fixtures import SMALL, copied_harvest, file_hashes, finished_harvest

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.format import StoreError
from checkpoints_dataset.harvest import harvest
from checkpoints_dataset.pair_sampler import PairSampler
from checkpoints_dataset.reference_runs import harvest_settings
from checkpoints_dataset.store import CheckpointStore
from g_pt.command_line.parsing import parse
from g_pt.files.config import merge
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks import get_task
from g_pt.tasks.quadratics import Quadratics
from g_pt.testing import check_rule
from g_pt.update_rules.gradient import AdamRule, NesterovRule, SGDRule
from g_pt.update_rules.mixed import MixedRule
from g_pt.update_rules.problem import follow
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
        (MixedRule((AdamRule(), SavedPromptRule("cartpole-return"))), "model 'cartpole-return' changes networks of"),
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


MIXED = MixedRule((NesterovRule(), AdamRule(learning_rate_range=(1e-3, 1e-2)), AdamRule(learning_rate=1.0)))


def test_a_harvest_of_several_rules_records_the_rule_of_each_run_and_reads_its_settings_back(tmp_path: Path) -> None:
    config = replace(SMALL, rule=MIXED)
    harvest(config, tmp_path / "mixed")
    store = CheckpointStore(tmp_path / "mixed")
    kept = [record.metadata for record in store.runs]
    assert merge(HarvestConfig(), {"rule": store.header.source["rule"]}, "read back").rule == MIXED
    assert [about["optimizer"] for about in kept].count("nesterov") == 5 + 5 + 4  # of shards of 15, 15 and 10 runs
    for about in kept:
        assert about["rule"]["name"] == about["optimizer"]
        if about["rule"].get("learning_rate_range"):
            assert 1e-3 <= about["learning_rate"] <= 1e-2
        else:
            assert about["learning_rate"] in (0.1, 1.0)
    # every run is trained as its rule trains it: on the mini-batches that all of the shard share
    runs = [record for record in store.runs[:15] if record.metadata["optimizer"] == "nesterov"]
    generator, task = keyed_generator(config.seed, 0), get_task("digits")
    MIXED.draw(15, generator)
    starts = task.init(15, generator)[[record.run for record in runs]]
    [(ends, _)] = follow(NesterovRule(), task, starts, generator, steps=[config.num_steps])
    stored = store.params(np.array([record.first_row + record.num_checkpoints - 1 for record in runs]))
    torch.testing.assert_close(stored, ends, rtol=1e-2, atol=1e-3)


def test_a_part_of_a_dataset_has_the_runs_of_some_rules_in_every_split(tmp_path: Path) -> None:
    harvest(replace(SMALL, rule=MIXED), tmp_path)
    store = CheckpointStore(tmp_path)
    part = store.of_rules(["adam"])
    assert store.of_rules(()) is store
    assert part.header.source["rules"] == ["adam"]
    for split in ("train", "validation", "test"):
        wanted = [r.run for r in store.runs_of(split) if r.metadata["optimizer"] == "adam"]
        assert [record.run for record in part.runs_of(split)] == wanted
    sampler = PairSampler(part, "loss", batch_size=64, seed=0)
    rows = np.concatenate(sampler.rows(0))
    names = {record.run: record.metadata["optimizer"] for record in store.runs}
    assert {names[run] for run in store.run[rows]} == {"adam"}
    with pytest.raises(StoreError, match=r"has no runs of rule 'foof'; its runs are of \['adam', 'nesterov'\]"):
        store.of_rules(["foof"])


def test_several_rules_are_named_by_flags_and_in_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rule_of(*flags: str) -> object:
        return parse(HarvestConfig, list(flags), prog="gpt-harvest", description="").rule

    file = tmp_path / "harvest.yaml"
    file.write_text("rule:\n- nesterov\n- {name: adam, learning_rate: 0.02}\n")
    wanted = MixedRule((NesterovRule(), AdamRule(learning_rate=0.02)))
    assert rule_of("--config", str(file)) == wanted
    assert rule_of("--rule", "nesterov", "--rule", "adam", "--rule.rules.1.learning-rate", "0.02") == wanted
    for settings, message in (
        ("rule: [adam]", "a mixture needs at least 2 rules, got 1"),
        ("rule: [adam, {learning_rate: 1}]", "each of several must be a name, or settings with a name"),
        ("rule: [adam, adagrad]", "there is no 'adagrad'"),
    ):
        file.write_text(settings)
        with pytest.raises(SystemExit):
            rule_of("--config", str(file))
        assert message in capsys.readouterr().err


def test_a_mixture_keeps_the_promises_of_rules() -> None:
    same = SGDRule(schedule="constant")
    check_rule(MixedRule((same, same)), Quadratics(noise=0.0))  # of different ones, a network's rule goes by its place
    starts = Quadratics().init(4, torch.Generator().manual_seed(0))
    mixed = MixedRule((same, AdamRule(schedule="constant")))
    [(_, cost)] = follow(mixed, Quadratics(), starts, torch.Generator().manual_seed(0), steps=[3])
    assert cost.gradients == 3  # each network has one in a step
    assert cost.state_bytes == 2 * 4 * 10 / 2
