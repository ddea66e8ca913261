"""dataset.json, and which split a run belongs to."""

from __future__ import annotations

import json

import pytest
from dataset_fixtures import synthetic_header

from checkpoints_dataset.format import HEADER_FILE, DatasetHeader, RunRecord, StoreError, shard_name, split_of


def write_header(folder, **changes):
    (folder / HEADER_FILE).write_text(json.dumps({**synthetic_header(2).to_json(), **changes}))


def test_a_header_round_trips(tmp_path):
    write_header(tmp_path)
    assert DatasetHeader.read(tmp_path) == synthetic_header(2)


def test_a_folder_without_header_says_which_command_makes_one(tmp_path):
    with pytest.raises(StoreError, match=r"no dataset\.json.*gpt-harvest"):
        DatasetHeader.read(tmp_path)


@pytest.mark.parametrize("change", [{"version": 2}, {"format": "something else"}])
def test_another_format_or_version_is_refused(tmp_path, change):
    write_header(tmp_path, **change)
    with pytest.raises(StoreError, match=r"dataset\.json must be 'g-pt checkpoint dataset' version 1, got"):
        DatasetHeader.read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float8"},
        {"layout": [["w"]]},
        {"layout": None},
        {"metrics": {"loss": {"name": "loss", "unit": "nats", "transform": "cube"}}},
        {"metrics": {"loss": {"colour": "red"}}},
        {"metrics": []},
    ],
)
def test_a_wrong_entry_is_refused_with_the_name_of_the_file(tmp_path, change):
    write_header(tmp_path, **change)
    with pytest.raises(StoreError, match=r"dataset\.json"):
        DatasetHeader.read(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "3", "{}", "\x00\xff"])
def test_damaged_headers_are_refused_with_the_name_of_the_file(tmp_path, content):
    (tmp_path / HEADER_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"dataset\.json"):
        DatasetHeader.read(tmp_path)


def test_every_twenty_runs_are_split_90_5_5():
    for first in range(0, 400, 20):
        splits = [split_of(run) for run in range(first, first + 20)]
        assert splits == ["train"] * 18 + ["validation", "test"]


def test_run_records_are_plain_json():
    record = RunRecord(7, 28, 4, {"learning_rate": 0.1, "notes": ["a", None]})
    assert RunRecord(**json.loads(json.dumps(record.to_json()))) == record


def test_shard_names_sort_by_number():
    assert sorted(map(shard_name, (10, 2, 1))) == [shard_name(1), shard_name(2), shard_name(10)]
