"""A harvest that cannot fit is refused before anything is made."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from checkpoints_dataset.capacity import check_capacity
from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.harvest import harvest
from g_pt.tasks import get_task

TOO_MUCH = [
    (
        HarvestConfig(num_runs=10**9, runs_per_shard=10**9),
        r"a shard of 1,000,000,000 runs.* GiB of memory",
    ),
    (HarvestConfig(num_runs=10**13), r"10,000,000,000,000 runs of 60 checkpoints take .* GiB more"),
    (HarvestConfig(task="cartpole", num_runs=10**12, runs_per_shard=10**12), r"a shard of 1,000,000,000,000 runs"),
]


def test_what_cannot_fit_is_refused_and_leaves_nothing(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for config, message in TOO_MUCH:
        with subtests.test(message=message), pytest.raises(ValueError, match=message):
            harvest(config, tmp_path / "made" / "here")
    assert not list(tmp_path.iterdir())


def test_the_disk_must_hold_every_checkpoint_that_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, task = HarvestConfig(num_runs=12, runs_per_shard=4, num_steps=9, num_checkpoints=5), get_task("digits")
    rows = 12 * 5 * task.layout.num_params * 2  # float16
    free = rows - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(ValueError, match="12 runs of 5 checkpoints take"):
        check_capacity(config, task, tmp_path)
    (tmp_path / "shard").write_bytes(b"1")
    check_capacity(config, task, tmp_path)


def test_a_shard_is_counted_not_the_limit_that_was_asked_for() -> None:
    check_capacity(HarvestConfig(num_runs=4, runs_per_shard=10**12), get_task("digits"), Path())
