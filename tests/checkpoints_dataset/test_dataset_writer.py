"""Writing shards: whole or not at all, and only beside shards of the same settings."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import torch
from dataset_fixtures import LAYOUT, file_hashes, synthetic_header, write_synthetic

import checkpoints_dataset.writer as writer_module
from checkpoints_dataset.format import DatasetHeader, StoreError
from checkpoints_dataset.store import CheckpointStore
from checkpoints_dataset.writer import DatasetWriter

METRICS = {"loss": torch.zeros(2, 3), "return": torch.ones(2, 3)}
PARAMS, STEPS, RUNS = torch.ones(2, 3, LAYOUT.num_params), [0, 1, 5], {0: {}, 1: {}}


def test_the_same_content_gives_the_same_bytes(tmp_path):
    write_synthetic(tmp_path / "a")
    write_synthetic(tmp_path / "b")
    assert file_hashes(tmp_path / "a") == file_hashes(tmp_path / "b")
    assert len(file_hashes(tmp_path / "a")) == 1 + 3 * 3


def test_further_arrays_round_trip_in_their_own_dtype(tmp_path):
    arrays = {
        "mask": torch.tensor([[True, False, True], [False, True, False]]),
        "counts": torch.arange(12, dtype=torch.int32).reshape(2, 3, 2),
        "ids": torch.arange(6).reshape(2, 3),
        "halves": torch.arange(6).reshape(2, 3).half() / 8,
        "bytes": torch.arange(6, dtype=torch.uint8).reshape(2, 3),
    }
    DatasetWriter(tmp_path, synthetic_header(1)).write_shard(0, PARAMS, STEPS, METRICS, RUNS, arrays=arrays)
    store = CheckpointStore(tmp_path)
    for name, written in arrays.items():
        read = torch.from_numpy(store.array(name, 0))
        assert read.dtype == written.dtype
        assert torch.equal(read, written.flatten(0, 1))
    with pytest.raises(StoreError, match=r"no array 'masks'.*bytes.*params"):
        store.array("masks", 0)


def test_free_metadata_of_runs_round_trips(tmp_path):
    runs = {4: {"learning_rate": 0.1, "tags": ["a", None]}, 9: {"nested": {"deep": True}}}
    left_out = {5: "non-finite parameters"}
    DatasetWriter(tmp_path, synthetic_header(1)).write_shard(0, PARAMS, STEPS, METRICS, runs, left_out=left_out)
    store = CheckpointStore(tmp_path)
    assert {r.run: r.metadata for r in store.runs} == runs
    assert store.left_out == left_out
    assert store.run.tolist() == [4, 4, 4, 9, 9, 9]
    assert store.step.tolist() == STEPS * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": {0: {}}}, "1 runs x 3 steps"),
        ({"steps": [0, 1]}, "2 runs x 2 steps"),
        ({"metrics": {"loss": METRICS["loss"]}}, r"metrics must be \['loss', 'return'\]"),
        ({"metrics": {**METRICS, "loss": torch.zeros(3, 2)}}, "loss must start with 2 runs x 3 checkpoints"),
        ({"arrays": {"mask": torch.zeros(2)}}, "mask must start with 2 runs x 3 checkpoints"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, changes, message):
    writer = DatasetWriter(tmp_path, synthetic_header(1))
    arguments = {"params": PARAMS, "steps": STEPS, "metrics": METRICS, "runs": RUNS, **changes}
    with pytest.raises(ValueError, match=message):
        writer.write_shard(0, **arguments)
    assert list(file_hashes(tmp_path)) == ["dataset.json"]


def test_foreign_folders_are_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "thesis.tex.tmp").write_text("more of it")
    before = file_hashes(tmp_path)
    with pytest.raises(StoreError, match="neither empty nor a checkpoint dataset"):
        DatasetWriter(tmp_path, synthetic_header(1))
    assert file_hashes(tmp_path) == before


def test_only_temporary_files_of_a_harvest_are_removed(tmp_path):
    (tmp_path / "dataset.json.4194305.tmp").write_text("{")  # killed while writing the very first file
    DatasetWriter(tmp_path, synthetic_header(1))
    for name in ("shard-00000.safetensors.4194305.tmp", "notes.tmp"):
        (tmp_path / name).write_text("partial")
    DatasetWriter(tmp_path, synthetic_header(1))
    assert list(file_hashes(tmp_path)) == ["dataset.json", "notes.tmp"]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("dtype", synthetic_header(1, "float16")),
        ("task", replace(synthetic_header(1), task="other")),
        ("source.kind", replace(synthetic_header(1), source={"kind": "other"})),
        ("source.seed", replace(synthetic_header(1), source={"kind": "synthetic", "seed": 1})),
        ("num_shards", synthetic_header(2)),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, name, other: DatasetHeader):
    DatasetWriter(tmp_path, synthetic_header(1))
    before = file_hashes(tmp_path)
    with pytest.raises(StoreError, match=rf"dataset\.json was made with {name} = .*now it is"):
        DatasetWriter(tmp_path, other)
    assert file_hashes(tmp_path) == before


@pytest.mark.parametrize("content", ["[]", "{", "3"])
def test_a_damaged_header_cannot_be_continued(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset\.json"):
        DatasetWriter(tmp_path, synthetic_header(1))


def test_a_temporary_file_of_a_living_process_stays(tmp_path):
    DatasetWriter(tmp_path, synthetic_header(1))
    living = tmp_path / f"shard-00000.safetensors.{os.getppid()}.tmp"
    living.write_text("another harvest is at it")
    DatasetWriter(tmp_path, synthetic_header(1))
    assert living.exists()


@pytest.mark.parametrize("function", ["write_tensors", "write_json", "fingerprint"])
def test_an_error_while_writing_leaves_no_temporary_file_and_no_finished_shard(tmp_path, monkeypatch, function):
    writer = DatasetWriter(tmp_path, synthetic_header(1))

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writer_module, function, fail)
        with pytest.raises(OSError, match="No space left"):
            writer.write_shard(0, PARAMS, STEPS, METRICS, RUNS)
    assert not list(tmp_path.glob("*.tmp"))
    assert not writer.is_finished(0)
    writer.write_shard(0, PARAMS, STEPS, METRICS, RUNS)  # over what the first attempt left
    assert len(CheckpointStore(tmp_path)) == 6


def test_a_manifest_names_sizes_and_checksums(tmp_path):
    write_synthetic(tmp_path, num_shards=1)
    manifest = json.loads((tmp_path / "shard-00000.json").read_text())
    for file, expected in manifest["files"].items():
        assert expected == {"bytes": (tmp_path / file).stat().st_size, "sha256": file_hashes(tmp_path)[file]}
