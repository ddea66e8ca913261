"""Harvests of policies: the same store, bytes and interruptions as those of classifiers; bigger returns are better."""

from dataclasses import replace

import pytest
import torch
from dataset_fixtures import POLICIES, file_hashes

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.facts import training_facts
from checkpoints_dataset.format import StoreError
from checkpoints_dataset.harvest import harvest
from checkpoints_dataset.store import CheckpointStore
from g_pt.commands import harvest as command
from g_pt.tasks import get_task
from g_pt.update_rules.gradient import AdamRule


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    harvest(POLICIES, folder)
    return folder


def test_the_store_says_how_the_policies_were_trained(finished):
    store = CheckpointStore(finished)
    source = store.header.source
    assert source["ppo"]["n_steps"] == 8
    assert source["ppo"]["learning_rate_range"] == [5e-4, 5e-3]
    assert not {"rule", "batch_size"} & set(source)
    assert store.header.metrics["return"].scale == 100
    assert len({record.metadata["learning_rate"] for record in store.runs}) == 22
    assert store.step.tolist() == [0, 1, 2, 3] * 22


def test_the_return_of_a_checkpoint_is_its_own(finished):
    store = CheckpointStore(finished)
    rows = torch.arange(88).numpy()
    own = get_task("cartpole").evaluate(store.params(rows), "validation")["return"]
    torch.testing.assert_close(torch.from_numpy(store.metrics["return"]), own, rtol=1e-6, atol=0.1)


def test_an_interrupted_harvest_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path, finished):
    taken = []

    def interrupt(number: int) -> None:
        taken.append(number)
        if sum(taken) > 11 * 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        harvest(POLICIES, tmp_path, progress=interrupt)
    with pytest.raises(StoreError, match=r"source.ppo.gamma = 0.99, now it is 0.9;"):
        harvest(replace(POLICIES, ppo=replace(POLICIES.ppo, gamma=0.9)), tmp_path)
    harvest(POLICIES, tmp_path)
    assert file_hashes(tmp_path) == file_hashes(finished)


def test_facts_put_the_best_return_first(finished):
    facts = training_facts(CheckpointStore(finished), get_task("cartpole"), "return")
    best, init = facts.attainable_range
    assert best > init
    assert facts.prompt_range[0] <= init < best <= facts.prompt_range[1]


def test_settings_of_other_tasks_are_refused_and_leave_no_folder(tmp_path):
    with pytest.raises(ValueError, match=r"rule is no setting of policies, got AdamRule.*; theirs are in ppo"):
        harvest(replace(POLICIES, rule=AdamRule()), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_takes_the_settings_of_ppo_as_flags(tmp_path, capsys):
    small = ["--num-runs", "2", "--num-steps", "1", "--num-checkpoints", "2", "--out", str(tmp_path / "d")]
    command.main(
        ["--task", "cartpole", "--ppo.n-steps", "4", "--ppo.gamma", "0.95", "--ppo.num-minibatches", "1", *small]
    )
    assert CheckpointStore(tmp_path / "d").header.source["ppo"]["gamma"] == 0.95
    assert "4 checkpoints of 2 runs" in capsys.readouterr().err


def test_settings_of_policies_are_not_recorded_where_there_are_none():
    assert "ppo" not in HarvestConfig().to_json()
