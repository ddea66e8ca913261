"""gpt-harvest as a user meets it: in a process of its own, killed, on a full disk; mistyped."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from dataset_fixtures import SMALL, file_hashes, finished_harvest, run_command
from in_process import run_in_process
from launched import start_program

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.format import StoreError
from checkpoints_dataset.harvest import harvest
from checkpoints_dataset.store import CheckpointStore
from g_pt.commands.harvest import default_folder, main

TINY = ("--num-runs", "4", "--num-steps", "3", "--num-checkpoints", "2")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


def harvested(capsys, *arguments: str) -> subprocess.CompletedProcess[str]:
    """gpt-harvest in this process."""
    return run_in_process(main, list(arguments), capsys)


def arguments_of(config: HarvestConfig) -> list[str]:
    settings = {name: value for name, value in config.to_json().items() if name != "rule"}
    assert config.rule == HarvestConfig().rule
    return [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def test_the_command_makes_the_bytes_of_the_library_and_prints_what_it_kept(tmp_path):
    result = run_command(*arguments_of(SMALL), "--out", str(tmp_path / "made"))
    assert result.returncode == 0, result.stderr
    assert "200 checkpoints of 40 runs, 0 runs left out" in result.stderr
    assert result.stdout == ""
    assert file_hashes(tmp_path / "made") == file_hashes(finished_harvest())


def test_a_range_of_learning_rates_is_two_values_of_one_flag(tmp_path, capsys):
    flags = ("--rule", "adam", "--rule.learning-rate-range", "0.01", "0.3", "--out", str(tmp_path / "made"))
    result = harvested(capsys, *TINY, *flags)
    assert result.returncode == 0, result.stderr
    store = CheckpointStore(tmp_path / "made")
    assert store.header.source["rule"]["learning_rate_range"] == [0.01, 0.3]
    assert {record.metadata["optimizer"] for record in store.runs} == {"adam"}
    rates = [record.metadata["learning_rate"] for record in store.runs]
    assert len(set(rates)) == 4
    assert all(0.01 <= rate < 0.3 for rate in rates)


@pytest.mark.parametrize(
    ("task", "folder"),
    [
        ("digits", "digits"),
        ("fashion-mnist", "fashion-mnist"),
        ("mnist-v1.5", "mnist-v1.5"),
        ("my_tasks/cifar.py:MyTask", "my-task"),
        ("my_package.images:FashionMNISTSmall2", "fashion-mnist-small2"),
    ],
)
def test_the_folder_follows_from_the_task(task, folder):
    assert default_folder(task) == Path("runs") / folder / "checkpoints"


def test_without_out_the_dataset_goes_to_the_folder_of_its_task(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = harvested(capsys, *TINY, "--task", "digits-deep")
    assert result.returncode == 0, result.stderr
    assert CheckpointStore(tmp_path / "runs/digits-deep/checkpoints").header.task == "digits-deep"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert "runs/<task>/checkpoints where it is not given" in harvested(capsys, "--help").stdout


def test_left_out_runs_are_counted_with_their_reason(tmp_path, capsys):
    result = harvested(capsys, *TINY, "--max-abs-param", "0.01", "--out", str(tmp_path / "made"))
    assert result.returncode == 1, "a dataset without runs is of no use"
    assert "all 4 runs were left out" in result.stderr
    assert "0 checkpoints of 0 runs, 4 runs left out" in result.stderr
    assert len(re.findall(r"left out: run \d, largest \|parameter\| 0\.\d+ above 0\.01", result.stderr)) == 4


MISTAKES = [
    (["--rule", "lion"], "gpt-harvest: rule: there is no .lion.; there are .*adam"),
    (["--task", "digit"], "gpt-harvest: there is no task 'digit'; tasks are .* Did you mean 'digits'"),
    (["--batch-size", "5000"], "gpt-harvest: batch_size must be at most 1197"),
    (["--num-runs", "-5"], "num_runs must be at least 1, got -5"),
    (["--rule.learning-rate-range", "0.3", "0.1"], r"learning_rate_range must be .*, got \(0.3, 0.1\)"),
    (["--rule.learning-rate", "-0.1"], "learning_rate must not be negative, got -0.1"),
    (["--optimizer", "adam"], "gpt-harvest: --optimizer is --rule now"),
    (["--momentum=0.5"], "gpt-harvest: --momentum is --rule.optimizer.momentum now"),
    (["--dtype", "float8"], "invalid choice 'float8'"),
]


def test_mistakes_get_one_sentence_and_an_exit_status(tmp_path, capsys, subtests):
    for arguments, message in MISTAKES:
        with subtests.test(" ".join(arguments)):
            result = harvested(capsys, *TINY, *arguments, "--out", str(tmp_path / "made"))
            assert result.returncode in (1, 2)
            assert re.search(message, result.stderr)
            assert "Traceback" not in result.stderr
            assert not (tmp_path / "made").exists()


def test_debugging_leaves_the_error_to_the_interpreter_which_shows_the_traceback(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("G_PT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="there is no task 'digit'"):
        harvested(capsys, "--task", "digit", "--out", str(tmp_path))


def test_a_real_write_error_is_one_sentence(tmp_path):
    def small_files_only():  # as a full disk: writing more than 20 kB to a file fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    folder = tmp_path / "made"
    result = run_command(*arguments_of(SMALL), "--out", str(folder), preexec_fn=small_files_only)
    assert result.returncode == 1
    assert re.search(r"^gpt-harvest: .*shard-00000\.safetensors.* cannot be written", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr
    assert list(file_hashes(folder)) == ["dataset.json"]


@pytest.mark.slow
def test_a_killed_harvest_continues_to_the_same_bytes(tmp_path, capsys, subtests):
    config = HarvestConfig(num_runs=60, num_steps=40, num_checkpoints=20, runs_per_shard=6)
    harvest(config, tmp_path / "whole")
    for wait_for in ("dataset.json", "shard-00002.json"):
        with subtests.test(wait_for):
            folder = tmp_path / wait_for
            arguments = [*arguments_of(config), "--out", str(folder)]
            (process,) = start_program("g_pt.commands.harvest:main", arguments)
            while not (folder / wait_for).exists() and process.is_alive():
                time.sleep(0.001)
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            with pytest.raises(StoreError, match="run the same gpt-harvest command again"):
                CheckpointStore(folder)
            (folder / "shard-00007.safetensors.4194305.tmp").write_bytes(b"partial")
            result = harvested(capsys, *arguments)
            assert result.returncode == 0, result.stderr
            assert file_hashes(folder) == file_hashes(tmp_path / "whole")
