"""Pairs: forward in time within one run, and the same whenever a step is drawn again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dataset_fixtures import finished_harvest, synthetic_header, write_synthetic

from checkpoints_dataset.format import StoreError, split_of
from checkpoints_dataset.pair_sampler import PairSampler
from checkpoints_dataset.store import CheckpointStore
from checkpoints_dataset.writer import DatasetWriter


@pytest.fixture(scope="module")
def store() -> CheckpointStore:
    return CheckpointStore(finished_harvest())


def rows(sampler: PairSampler, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = [sampler.rows(step) for step in range(num_steps)]
    return np.concatenate([s for s, _ in drawn]), np.concatenate([t for _, t in drawn])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_pairs_go_forward_in_time_within_one_run_of_the_split(store, split):
    start, target = rows(PairSampler(store, "loss", split=split, batch_size=64, seed=0), 40)
    assert (store.run[start] == store.run[target]).all()
    assert (store.step[start] < store.step[target]).all()
    assert {split_of(run) for run in store.run[start]} == {split}
    assert set(store.run[start]) == {r.run for r in store.runs_of(split)}  # all of them are drawn


def test_every_pair_of_checkpoints_is_drawn(store):
    start, target = rows(PairSampler(store, "loss", batch_size=256, seed=0), 40)
    pairs = {(s % 5, t % 5) for s, t in zip(start, target, strict=True)}
    assert pairs == {(i, j) for j in range(5) for i in range(j)}


def test_a_step_depends_on_seed_and_step_only(store):
    one, two = (PairSampler(store, "loss", batch_size=32, seed=7) for _ in range(2))
    later = [one.rows(step) for step in range(20)]
    for step in (19, 3, 3, 0):
        np.testing.assert_array_equal(two.rows(step), later[step])
    assert not np.array_equal(later[0], later[1])
    assert not np.array_equal(PairSampler(store, "loss", batch_size=32, seed=8).rows(0), later[0])


def test_batches_hold_the_rows_and_their_metric(store):
    sampler = PairSampler(store, "error", batch_size=32, seed=0)
    start, target = sampler.rows(5)
    batch = sampler.batch(5)
    assert torch.equal(batch.starting_params, store.params(start))
    assert torch.equal(batch.future_params, store.params(target))
    np.testing.assert_array_equal(batch.starting_metric, store.metrics["error"][start])
    np.testing.assert_array_equal(batch.future_metric, store.metrics["error"][target])


@pytest.mark.parametrize("part", [slice(0, 10), slice(10, 32), slice(1, None, 2), slice(0, 0)])
def test_a_part_of_a_batch_is_the_slice_of_the_whole(store, part):
    sampler = PairSampler(store, "loss", batch_size=32, seed=0)
    whole, share = sampler.batch(3), sampler.batch(3, part)
    for name, values in vars(whole).items():
        assert torch.equal(getattr(share, name), values[part]), name


@pytest.mark.parametrize("init_share", [0.0, 0.3, 0.7, 1.0])
def test_init_share_is_the_share_of_pairs_that_start_at_the_init(store, init_share):
    start, _ = rows(PairSampler(store, "loss", batch_size=1000, seed=0, init_share=init_share), 20)
    expected = init_share + (1 - init_share) / 4  # the uniform draw over 4 starts gives the init too
    deviation = np.sqrt(expected * (1 - expected) / len(start))
    assert abs((store.step[start] == 0).mean() - expected) <= 5 * deviation


def test_targets_are_uniform_over_the_checkpoints_after_the_start(store):
    _, target = rows(PairSampler(store, "loss", batch_size=1000, seed=0, init_share=1.0), 20)
    shares = np.bincount(target % 5, minlength=5) / len(target)
    np.testing.assert_allclose(shares, [0, 0.25, 0.25, 0.25, 0.25], atol=5 * np.sqrt(0.25 * 0.75 / len(target)))


def test_max_runs_uses_the_first_runs(store):
    sampler = PairSampler(store, "loss", batch_size=500, seed=0, max_runs=3)
    assert sampler.num_runs == 3
    assert set(store.run[sampler.rows(0)[0]]) == {0, 1, 2}
    assert PairSampler(store, "loss", batch_size=1, seed=0, max_runs=10**6).num_runs == 36


def test_an_unknown_metric_lists_those_there_are(store):
    with pytest.raises(ValueError, match=r"no metric 'accuracy'; it has \['error', 'loss'\]"):
        PairSampler(store, "accuracy", batch_size=1, seed=0)


def test_a_split_without_runs_says_how_splits_are_made(tmp_path):
    write_synthetic(tmp_path, num_shards=1, runs_per_shard=10)
    with pytest.raises(StoreError, match=r"no runs in its test split: 10 runs are kept.*of every 20 runs"):
        PairSampler(CheckpointStore(tmp_path), "loss", split="test", batch_size=1, seed=0)


def test_runs_of_one_checkpoint_hold_no_pair(tmp_path):
    metrics = {"loss": torch.zeros(1, 1), "return": torch.zeros(1, 1)}
    DatasetWriter(tmp_path, synthetic_header(1)).write_shard(0, torch.zeros(1, 1, 6), [0], metrics, {0: {}})
    with pytest.raises(StoreError, match="no runs of two checkpoints in its train split"):
        PairSampler(CheckpointStore(tmp_path), "loss", batch_size=1, seed=0)
