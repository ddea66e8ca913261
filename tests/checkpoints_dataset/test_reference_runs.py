"""The training runs of a model, read and made again: the same bytes, and no more of them than are needed."""

from dataclasses import replace

import pytest
import torch
from dataset_fixtures import SMALL, file_hashes, finished_harvest, write_synthetic

from checkpoints_dataset.facts import training_facts
from checkpoints_dataset.reference_runs import (
    candidate_sizes,
    dataset_folder,
    harvest_settings,
    reference_runs,
    reference_store,
    same_runs,
)
from checkpoints_dataset.store import CheckpointStore
from g_pt.networks.training_facts import DatasetFacts, TrainingFacts


@pytest.fixture(scope="module")
def store():
    return CheckpointStore(finished_harvest())


@pytest.fixture(scope="module")
def facts(store, digits):
    return training_facts(store, digits, "loss")


def test_runs_that_are_made_again_are_the_originals(store, facts, tmp_path):
    again = reference_store(facts, tmp_path, num_held_out=2)
    assert file_hashes(again.folder) == file_hashes(store.folder)
    assert same_runs(again, facts, "loss")


def test_finished_runs_are_reused_and_settings_keep_apart(facts, tmp_path, monkeypatch):
    monkeypatch.setenv("G_PT_CACHE", str(tmp_path))
    first = reference_store(facts, num_held_out=2)
    assert first.folder.parent == tmp_path / "runs"
    before = {path.name: path.stat().st_mtime_ns for path in first.folder.glob("shard*")}
    again = reference_store(facts, num_held_out=2)
    assert {path.name: path.stat().st_mtime_ns for path in again.folder.glob("shard*")} == before
    assert dataset_folder(SMALL) != dataset_folder(replace(SMALL, seed=1))


def test_a_part_of_the_runs_needs_the_first_shards_only(store, digits, tmp_path):
    facts = training_facts(store, digits, "loss", max_runs=10)
    part = reference_store(facts, tmp_path, num_held_out=1)  # run 19 is the first of the test split
    assert (len(part.runs), part.header.num_shards) == (30, 2)
    hashes = file_hashes(store.folder)
    assert all(hashes[name] == digest for name, digest in file_hashes(part.folder).items() if name.startswith("shard"))
    assert same_runs(part, facts, "loss")
    other = replace(facts, prompt_range=(0.1, 2.0))
    assert not same_runs(part, other, "loss")


def test_numbers_of_runs_are_whole_shards_or_all():
    config = replace(SMALL, num_runs=1000, runs_per_shard=50)
    assert candidate_sizes(config, 90, 1) == [100, 1000]
    assert candidate_sizes(config, 91, 1) == [150, 1000]
    assert candidate_sizes(config, 90, 6) == [150, 1000]
    assert candidate_sizes(config, 900, 50) == [1000]
    assert candidate_sizes(config, 900, 5000) == [1000]


def test_more_runs_are_made_where_some_are_left_out(store, digits, tmp_path):
    # a bound on the parameters that leaves out some runs: the first shards hold too few of the others
    largest = [store.params(torch.arange(r.first_row, r.first_row + 5).numpy()).abs().max().item() for r in store.runs]
    bound = sorted(largest)[len(largest) // 2]
    source = {**store.header.source, "max_abs_param": bound}
    facts = TrainingFacts((0, 1), dataset=DatasetFacts(20, source=source))
    made = reference_store(facts, tmp_path, num_held_out=1)
    assert len(made.runs) + len(made.left_out) == 40
    assert made.left_out


def test_models_without_a_harvest_are_refused(facts):
    with pytest.raises(ValueError, match="does not say how its training runs were harvested"):
        harvest_settings(TrainingFacts(dataset=DatasetFacts(source={"kind": "lmdb"})))
    with pytest.raises(ValueError, match="does not say"):
        harvest_settings(TrainingFacts())
    source = {**facts.dataset.source, "data": "5000 of 70000"}
    with pytest.raises(ValueError, match="saw the data '5000 of 70000', here is 'all of it'"):
        harvest_settings(TrainingFacts(dataset=DatasetFacts(source=source)))


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_runs": 100_000, "num_steps": 100, "num_checkpoints": 60, "runs_per_shard": 100_000},
        {"num_runs": 20_000, "num_steps": 50_000, "num_checkpoints": 5_000, "runs_per_shard": 1},
        {"num_runs": 20, "num_steps": 1_000_000, "num_checkpoints": 100_000},
        {"num_runs": 20_000, "num_steps": 20_000, "batch_size": 10_000},
        {"num_runs": 20_000, "num_steps": 60, "batch_size": 10_000, "runs_per_shard": 20_000, "num_checkpoints": 2},
        {"task": "cartpole", "num_runs": 125, "num_steps": 60, "ppo": {"n_steps": 100_000, "num_envs": 10_000}},
    ],
)
def test_a_harvest_that_no_disk_or_memory_holds_is_refused_before_it_begins(facts, tmp_path, sizes):
    kept = ("kind", "runs_per_shard", "num_checkpoints") if "ppo" in sizes else facts.dataset.source
    source = {**{name: facts.dataset.source[name] for name in kept}, **sizes}
    asking = replace(facts, dataset=DatasetFacts(18_000 if sizes["num_runs"] == 20_000 else 18, source=source))
    with pytest.raises(ValueError, match=r" take [\d,]+ .* made again unasked: give the folder of its dataset"):
        reference_store(asking, tmp_path, num_held_out=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", ["{folder}/evil.py:Evil", "this:x", "ensurepip:x", "../evil", "digits:Digits"])
def test_a_task_that_a_file_names_is_never_imported(facts, tmp_path, task):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    source = {**facts.dataset.source, "task": task.format(folder=tmp_path)}
    with pytest.raises(ValueError, match="there is no task"):
        harvest_settings(TrainingFacts(dataset=DatasetFacts(source=source)))
    assert not (tmp_path / "executed").exists()


def test_settings_of_policies_are_read_too():
    ppo = {"num_envs": 2, "learning_rate_range": [0.1, 0.2]}
    source = {"kind": "harvest", "task": "cartpole", "num_runs": 20, "ppo": ppo}
    config = harvest_settings(TrainingFacts(dataset=DatasetFacts(source=source)))
    assert (config.ppo.num_envs, config.ppo.learning_rate_range, config.num_runs) == (2, (0.1, 0.2), 20)


def test_tensors_are_those_of_the_runs(store):
    runs = reference_runs(store, "loss", max_runs=9, num_checkpoints=20, num_trajectories=3)
    assert runs.training.starts.shape == runs.training.ends.shape == (9, 1210)
    assert runs.training.trajectories.shape == (3, 5, 1210)
    assert runs.training.steps.tolist() == sorted(set(store.step.tolist()))
    torch.testing.assert_close(runs.training.trajectories[:, 0], runs.training.starts[:3])
    torch.testing.assert_close(runs.training.trajectories[:, -1], runs.training.ends[:3])
    assert len(runs.held_out.ends) == 2  # of 40
    assert torch.equal(runs.held_out.ends, store.params(store.final_rows("test")))
    allowed = store.params(torch.arange(9 * 5).numpy())  # the first nine runs are all of the train split
    gaps = torch.cdist(runs.training.checkpoints, allowed).amin(dim=1)
    assert runs.training.checkpoints.shape == (20, 1210)
    assert gaps.max() < 0.01


def test_metrics_belong_to_their_networks(store, digits):
    runs = reference_runs(store, "loss", num_checkpoints=15).training
    for params, values in ((runs.ends, runs.end_metric), (runs.checkpoints, runs.checkpoint_metric)):
        torch.testing.assert_close(digits.evaluate(params, "validation")["loss"], values, rtol=1e-4, atol=1e-4)


def test_memory_is_bounded_and_draws_repeat(store):
    budget = 10 * 4 * 1210
    first, second = (reference_runs(store, "loss", max_bytes=budget, seed=3).training for _ in range(2))
    assert first.starts.shape == (5, 1210)
    assert len(first.checkpoints) == 10
    assert first.trajectories.shape == (2, 5, 1210)
    assert torch.equal(first.ends, second.ends)
    assert not torch.equal(first.ends, reference_runs(store, "loss", max_bytes=budget, seed=4).training.ends)


def test_other_metrics_and_networks_are_read_as_well(tmp_path):
    write_synthetic(tmp_path / "data")
    runs = reference_runs(CheckpointStore(tmp_path / "data"), "return", num_trajectories=2)
    assert runs.training.starts.shape == (54, 6)
    assert runs.training.trajectories.shape == (2, 4, 6)


def test_a_harvest_of_years_is_refused_before_it_begins(facts, tmp_path):
    source = {**facts.dataset.source, "num_steps": 10**6, "num_runs": 10**6}
    asking = replace(facts, dataset=DatasetFacts(10**6, source=source))
    with pytest.raises(ValueError, match=r"1,000,000,000,000 steps .* give the folder of its dataset"):
        reference_store(asking, tmp_path)
    assert list(tmp_path.iterdir()) == []
