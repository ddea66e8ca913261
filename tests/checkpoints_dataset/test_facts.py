"""Facts of a dataset against values worked out by hand."""

from __future__ import annotations

import pytest
import torch
from dataset_fixtures import LAYOUT, METRICS, synthetic_header, write_synthetic
from tiny_training import tiny_harvest

import checkpoints_dataset.facts as facts_module
from checkpoints_dataset.facts import fit_normalizer, training_facts, unmoved_metrics
from checkpoints_dataset.format import StoreError
from checkpoints_dataset.store import CheckpointStore
from checkpoints_dataset.writer import DatasetWriter
from g_pt.networks.training_facts import TrainedRuns
from g_pt.tasks import get_task


class SumTask:
    """A task whose loss is the sum of the parameters."""

    def metric(self, name):
        return METRICS[name]

    def evaluate(self, params, split):
        assert split == "test"
        return {"loss": params.sum(dim=1)}


@pytest.fixture
def store(tmp_path) -> CheckpointStore:
    """40 runs of 3 checkpoints; validation and test runs (18, 19, 38, 39) have values that must not count."""
    loss, outcome = torch.tensor([3.0, 1.0, 2.0]).repeat(40, 1), torch.tensor([-5.0, 7.0, 6.0]).repeat(40, 1)
    loss[0], outcome[0] = torch.tensor([39.0, 38.0, 37.0]), torch.tensor([-41.0, -42.0, -43.0])
    for held_out in (18, 19, 38, 39):
        loss[held_out] = outcome[held_out] = torch.tensor([1000.0, -1000.0, 0.0])
    params = torch.zeros(40, 3, LAYOUT.num_params)
    params[19, 2], params[39, 2] = 1.0, 3.0  # last checkpoints of the test runs: sums 6 and 18
    runs = {run: {} for run in range(40)}
    DatasetWriter(tmp_path, synthetic_header(1)).write_shard(
        0, params, [0, 5, 9], {"loss": loss, "return": outcome}, runs
    )
    return CheckpointStore(tmp_path)


def test_facts_of_a_metric_to_minimise(store):
    facts = training_facts(store, SumTask(), "loss")
    assert facts.prompt_range == (1.0, 39.0)
    assert facts.attainable_range == pytest.approx([(35 * 1 + 37) / 36, (35 * 3 + 39) / 36])
    assert facts.to_json()["trained_runs"] == {"num_runs": 2, "test_loss": {"mean": 12.0}}
    assert facts.best_run == TrainedRuns({"test_loss": 0.0}, 36), "the run whose last loss is the lowest, measured"
    assert facts.to_json()["dataset"] == {"num_runs": 36, "num_checkpoints": 108, "source": {"kind": "synthetic"}}


def test_facts_of_a_metric_to_maximise(store):
    facts = training_facts(store, SumTask(), "return")
    assert facts.prompt_range == (-43.0, 7.0)
    assert facts.attainable_range == pytest.approx([(35 * 7 - 41) / 36, (35 * -5 - 41) / 36])


def test_runs_of_classifiers_are_measured_alone_and_together():
    store, task = CheckpointStore(tiny_harvest()), get_task("digits")
    facts, test = training_facts(store, task, "loss"), task.splits["test"]
    ends = store.params(store.final_rows("train"))
    answers = task.forward(task.layout.unflatten(ends), test.inputs).softmax(dim=1)  # (R, C, N)
    together = answers.mean(dim=0)
    wrong = 100 * (together.argmax(dim=0) != test.labels).float().mean().item()
    loss = -together.gather(0, test.labels[None]).log().mean().item()
    assert facts.mean_answer.num_runs == facts.best_run.num_runs == 36
    assert facts.mean_answer.means["test_loss"] == pytest.approx(loss, rel=1e-4)
    assert facts.mean_answer.means["test_error"] == pytest.approx(wrong, abs=0.01)
    best = store.metrics["loss"][store.final_rows("train")].argmin()
    assert facts.best_run.means["test_loss"] == pytest.approx(task.evaluate(ends[best : best + 1])["loss"].item())
    held_out = store.params(store.final_rows("test"))
    answers = task.forward(task.layout.unflatten(held_out), test.inputs).argmax(dim=1)
    assert facts.trained_runs.means["test_disagreement"] == pytest.approx(
        100 * (answers[0] != answers[1]).float().mean().item(), abs=1e-3
    )


def train_params(params: torch.Tensor) -> torch.Tensor:
    return torch.cat([p for run, p in enumerate(params.split(4)) if run % 20 < 18])


def test_the_global_normalizer_has_the_standard_deviation_of_the_train_split(tmp_path):
    params, _ = write_synthetic(tmp_path)
    normalizer = fit_normalizer(CheckpointStore(tmp_path), "global")
    assert torch.equal(normalizer.mean, torch.zeros(6))
    torch.testing.assert_close(normalizer.std, train_params(params).std().expand(6))


def test_the_tensor_normalizer_has_one_mean_and_deviation_per_tensor(tmp_path):
    params, _ = write_synthetic(tmp_path)
    normalizer = fit_normalizer(CheckpointStore(tmp_path), "tensor")
    for part in (slice(0, 4), slice(4, 6)):
        wanted = train_params(params)[:, part]
        torch.testing.assert_close(normalizer.mean[part], wanted.mean().expand(part.stop - part.start))
        torch.testing.assert_close(normalizer.std[part], wanted.std().expand(part.stop - part.start))


def test_large_datasets_are_sampled_the_same_way_for_the_same_seed(tmp_path, monkeypatch):
    params, _ = write_synthetic(tmp_path)
    store = CheckpointStore(tmp_path)
    monkeypatch.setattr(facts_module, "STATISTICS_ROWS", 100)
    stds = [fit_normalizer(store, "global", seed=seed).std[0].item() for seed in (0, 0, 1)]
    assert stds[0] == stds[1] != stds[2]
    assert stds[0] == pytest.approx(train_params(params).std().item(), rel=0.15)
    assert stds[0] != train_params(params).std().item()


def test_fewer_than_twenty_runs_hold_no_test_run(tmp_path):
    write_synthetic(tmp_path, num_shards=1, runs_per_shard=10)
    with pytest.raises(StoreError, match="no runs in its test split: 10 runs are kept and 0 left out"):
        training_facts(CheckpointStore(tmp_path), SumTask(), "loss")


def test_a_metric_that_no_prompt_could_ask_for_is_refused(tmp_path):
    loss = torch.linspace(2.0, 1.0, 40)[:, None] + torch.tensor([0.0, 0.5, 1.0])  # from bad to worse
    metrics, runs = {"loss": loss, "return": torch.full((40, 3), -200.0)}, {run: {} for run in range(40)}
    params = torch.zeros(40, 3, LAYOUT.num_params)
    DatasetWriter(tmp_path, synthetic_header(1)).write_shard(0, params, [0, 5, 9], metrics, runs)
    store = CheckpointStore(tmp_path)
    assert unmoved_metrics(store) == {"return": -200.0}
    with pytest.raises(StoreError, match=r"the return is -200 in every checkpoint.* harvest with more steps"):
        training_facts(store, SumTask(), "return")
    with pytest.raises(StoreError, match="the loss of no run gets better than at its start; harvest with more"):
        training_facts(store, SumTask(), "loss")
