"""Reading a dataset back: what was written comes out, and damage is named."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from dataset_fixtures import LAYOUT, SMALL, copied_harvest, file_hashes, finished_harvest, write_synthetic

from checkpoints_dataset.facts import fit_normalizer, training_facts
from checkpoints_dataset.format import StoreError, split_of
from checkpoints_dataset.harvest import harvest
from checkpoints_dataset.pair_sampler import PairSampler
from checkpoints_dataset.store import CheckpointStore
from g_pt.tasks import get_task
from g_pt.update_rules.gradient import NesterovRule

SUFFIXES = ("safetensors", "arrow", "json")


def flip_byte(path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_gathering_equals_what_was_written_in_any_order(tmp_path):
    params, metrics = write_synthetic(tmp_path)
    store = CheckpointStore(tmp_path)
    assert len(store) == len(params) == 240
    for name, values in metrics.items():
        assert torch.equal(torch.from_numpy(store.metrics[name]), values)
    forward, rng = np.arange(240), np.random.default_rng(0)
    across_shards = np.array([79, 80, 79, 160])  # shards hold 80 rows each
    for rows in (forward, forward[::-1], rng.permutation(240), rng.integers(240, size=500), across_shards):
        gathered = store.params(rows)
        assert gathered.dtype == torch.float32
        assert torch.equal(gathered, params[rows.copy()])
    assert store.params(np.array([], dtype=np.int64)).shape == (0, LAYOUT.num_params)


def test_float16_rows_come_out_as_they_were_rounded(tmp_path):
    harvest(replace(SMALL, dtype="float32"), tmp_path)
    rows = np.arange(200)[::-1].copy()
    exact, rounded = CheckpointStore(tmp_path).params(rows), CheckpointStore(finished_harvest()).params(rows)
    assert torch.equal(rounded, exact.half().float())
    assert not torch.equal(rounded, exact)


@pytest.mark.parametrize("rows", [[-1], [0, 240], [10**9]])
def test_rows_out_of_range_are_refused(tmp_path, rows):
    write_synthetic(tmp_path)
    with pytest.raises(IndexError, match=r"rows must lie in \[0, 240\)"):
        CheckpointStore(tmp_path).params(np.array(rows))


def test_opening_reads_no_parameters_and_reading_changes_no_file():
    folder = finished_harvest()
    before = file_hashes(folder)
    store = CheckpointStore(folder, verify=False)
    assert "_params" not in vars(store)
    mapped = store.array("params", 2)
    assert isinstance(mapped, np.memmap)
    assert (mapped.shape, mapped.dtype) == ((50, 1210), np.float16)
    mapped += 1
    store.params(np.arange(200)).zero_()
    assert file_hashes(folder) == before
    assert store.params(np.arange(200)).any(dim=1).all()  # nor does one reader see what another did with its rows


def test_opening_without_checksums_needs_no_byte_of_the_parameters(tmp_path):
    folder = copied_harvest(tmp_path)
    path = folder / "shard-00000.safetensors"
    size, content = path.stat().st_size, path.read_bytes()
    path.write_bytes(content[: 8 + int.from_bytes(content[:8], "little")])  # the header, which says how many rows
    with open(path, "r+b") as file:
        file.truncate(size)  # a hole of the right size
    assert len(CheckpointStore(folder, verify=False)) == 200


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("verify", [True, False])
def test_a_missing_file_is_named(tmp_path, suffix, verify):
    folder = copied_harvest(tmp_path)
    (folder / f"shard-00001.{suffix}").unlink()
    with pytest.raises(StoreError, match=rf"shard-00001\.{suffix} is missing"):
        CheckpointStore(folder, verify=verify)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_file_is_named(tmp_path, suffix, verify):
    path = copied_harvest(tmp_path) / f"shard-00001.{suffix}"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=rf"shard-00001\.{suffix} (must have|is not valid JSON)"):
        CheckpointStore(path.parent, verify=verify)


@pytest.mark.parametrize("suffix", ["safetensors", "arrow"])
@pytest.mark.parametrize("position", [3, -3, "middle"])
def test_one_flipped_bit_is_found_and_named(tmp_path, suffix, position):
    path = copied_harvest(tmp_path) / f"shard-00002.{suffix}"
    flip_byte(path, path.stat().st_size // 2 if position == "middle" else position)
    with pytest.raises(StoreError, match=rf"shard-00002\.{suffix} does not have the checksum"):
        CheckpointStore(path.parent)


def test_without_verification_checksums_are_skipped(tmp_path):
    path = copied_harvest(tmp_path) / "shard-00002.safetensors"
    flip_byte(path, -3)
    assert len(CheckpointStore(path.parent, verify=False)) == 200


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["runs"].pop(),
        lambda m: m["runs"][3].update(num_checkpoints=4),
        lambda m: m["runs"][3].update(first_row=0),
        lambda m: m["runs"][3].update(run=19),
        lambda m: m["files"].clear(),
        lambda m: m["files"].update({"extra.bin": {}}),
        lambda m: m.pop("left_out"),
    ],
)
def test_an_altered_manifest_is_named(tmp_path, change):
    path = copied_harvest(tmp_path) / "shard-00001.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"shard-00001\.json"):
        CheckpointStore(path.parent)


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"runs": []}'])
@pytest.mark.parametrize("name", ["dataset.json", "shard-00001.json"])
def test_damaged_json_is_named(tmp_path, name, content):
    path = copied_harvest(tmp_path) / name
    path.write_text(content)
    with pytest.raises(ValueError, match=name):
        CheckpointStore(path.parent)


def test_a_newer_version_is_refused(tmp_path):
    path = copied_harvest(tmp_path) / "dataset.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(StoreError, match=r"dataset\.json must be .* version 1, got .* version 2"):
        CheckpointStore(path.parent)


def test_splits_are_disjoint_complete_and_follow_the_run(tmp_path):
    write_synthetic(tmp_path)
    store = CheckpointStore(tmp_path)
    runs = {split: {r.run for r in store.runs_of(split)} for split in ("train", "validation", "test")}
    assert {split: len(found) for split, found in runs.items()} == {"train": 54, "validation": 3, "test": 3}
    assert set.union(*runs.values()) == set(range(60))
    rows = {split: {row for row in range(240) if split_of(store.run[row]) == split} for split in runs}
    for split, found in runs.items():
        assert {store.run[row] for row in rows[split]} == found
        assert set(store.final_rows(split)) == {row for row in rows[split] if store.step[row] == 30}
    with pytest.raises(ValueError, match="split must be one of"):
        store.runs_of("dev")


def test_a_store_of_which_all_runs_were_left_out_says_so_wherever_runs_are_wanted(tmp_path):
    harvest(replace(SMALL, rule=NesterovRule(learning_rate=1e3)), tmp_path)
    store = CheckpointStore(tmp_path)
    message = "no runs in its t.* split: 0 runs are kept and 40 left out"
    for use in (
        lambda: PairSampler(store, "loss", batch_size=4, seed=0),
        lambda: fit_normalizer(store, "global"),
        lambda: training_facts(store, get_task("digits"), "loss"),
    ):
        with pytest.raises(StoreError, match=message):
            use()
