"""Shards sized by time, and the same ones for whoever continues a harvest."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest
from dataset_fixtures import SMALL, file_hashes
from launched import Death, run_program

from checkpoints_dataset import shard_size
from checkpoints_dataset.format import DatasetHeader, StoreError
from checkpoints_dataset.harvest import harvest
from checkpoints_dataset.shard_size import SIZES, size_for

UNSAID = replace(SMALL, runs_per_shard=None)


def test_a_shard_has_as_many_runs_as_take_a_minute() -> None:
    cases = {
        "so fast that one after the other would do": (lambda n: 0.2 * n, 250),
        "slow, but many cost as much as few": (lambda n: 20 + 0.05 * n, 250),
        "a straight line": (lambda n: 4.0 + 1.0 * n, 30),  # 56 fit
        "each as long as it is alone": (lambda n: 10.0 * n, 4),  # 6 fit
        "one takes longer": (lambda n: 100.0 * n, 1),
        "exactly as many as 60 s are enough for": (lambda n: 0.5 * n, 120),
    }
    for name, (seconds, wanted) in cases.items():
        asked: list[int] = []
        assert size_for(lambda n, seconds=seconds, asked=asked: asked.append(n) or seconds(n), 4000) == wanted, name
        assert sum(map(seconds, asked[:-1])) <= 4 * shard_size.SECONDS, f"{name}: measured {asked}"


def test_a_fast_task_has_the_shards_and_the_bytes_that_it_always_had(tmp_path: Path) -> None:
    harvest(UNSAID, tmp_path / "unsaid")
    harvest(replace(SMALL, runs_per_shard=250), tmp_path / "said")
    assert file_hashes(tmp_path / "unsaid") == file_hashes(tmp_path / "said")
    assert DatasetHeader.read(tmp_path / "unsaid").source["runs_per_shard"] == 250


def test_whoever_continues_takes_the_shards_that_were_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checkpoints_dataset.harvest.measured_size", lambda *_: 15)
    harvest(SMALL, tmp_path / "said")

    class Killed(Exception):
        pass

    def die(taken: int) -> None:
        if (tmp_path / "unsaid" / "shard-00000.json").exists():
            raise Killed

    with pytest.raises(Killed):
        harvest(UNSAID, tmp_path / "unsaid", progress=die)
    monkeypatch.setattr("checkpoints_dataset.harvest.measured_size", lambda *_: pytest.fail("measured again"))
    with pytest.raises(StoreError, match=r"source\.runs_per_shard = 15, now it is 20"):
        harvest(replace(SMALL, runs_per_shard=20), tmp_path / "unsaid")
    harvest(UNSAID, tmp_path / "unsaid")
    assert file_hashes(tmp_path / "unsaid") == file_hashes(tmp_path / "said")


def test_a_slow_task_gets_small_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_size, "SECONDS", 1e-3)
    harvest(UNSAID, tmp_path)
    size = DatasetHeader.read(tmp_path).source["runs_per_shard"]
    assert size in SIZES[-4:], "a shard of one network takes longer than that"
    assert len(list(tmp_path.glob("shard-*.json"))) == -(-40 // size)


@pytest.mark.slow
def test_several_processes_agree_and_a_killed_one_costs_one_shard(tmp_path: Path) -> None:
    flags = ["--num-runs", "40", "--num-steps", "12", "--num-checkpoints", "5", "--out", str(tmp_path / "parts")]
    death = Death("checkpoints_dataset.writer:DatasetWriter.__init__", rank=1)  # nothing but the header is there
    main = "g_pt.commands.harvest:main"
    assert run_program(main, flags, processes=2, death=death) == [1, -signal.SIGKILL]
    assert run_program(main, flags, processes=2) == [0, 0]
    harvest(replace(SMALL, runs_per_shard=250), tmp_path / "said")
    assert file_hashes(tmp_path / "parts") == file_hashes(tmp_path / "said")
