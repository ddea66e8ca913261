"""Trainings whose files are damaged, removed or on a full disk: one sentence, and what can go on goes on."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from in_process import run_in_process
from launched import Death, Limits, run_program

from g_pt.commands import train
from g_pt.files.atomic import named_disk_errors, write_json
from g_pt.training.checkpoints import TrainingCheckpoints, check_resumable
from g_pt.training.log import TrainingLog

MAIN = "g_pt.commands.train:main"
TINY = """
dataset: {folder}/data
output: {folder}/out
harvest: {{num_runs: 40, num_steps: 40, num_checkpoints: 6, runs_per_shard: 20}}
model: {{width: 16, num_layers: 1, num_heads: 2}}
pairs: {{batch_size: 8}}
optimizer: {{num_steps: 20, warmup_steps: 5, mixed_precision: "no", cpu_threads: 1}}
progress: {{evaluate_every: 0, save_every: 10}}
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY.format(folder=tmp_path))
    return file


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        AcceleratorState._reset_state(reset_partial_state=True)
        return run_in_process(train.main, [str(argument) for argument in arguments], capsys)

    return call


@pytest.mark.slow
@pytest.mark.parametrize(
    "when", ["checkpoints_dataset.writer:DatasetWriter.write_shard", "g_pt.runtime.processes:Team.wait"]
)
def test_a_kill_during_or_right_after_the_harvest_is_resumed(settings: Path, when: str, run: Run) -> None:
    out = settings.parent / "out"
    assert run_program(MAIN, ["--config", settings], death=Death(when)) == [-signal.SIGKILL]
    assert [path.name for path in out.iterdir()] == ["train_config.json"]
    left, mine = out / ".curve.png.g-pt-999999999-0123abcd.tmp", out / "mine.tmp"  # a kill while that was written
    for file in (left, mine):
        file.write_text("half")
    done = run("--config", settings, "--resume")
    assert done.returncode == 0, done.stderr
    assert (left.exists(), mine.exists()) == (False, True)
    assert "data" in json.loads((out / "train_config.json").read_text())
    assert (out / "pipeline" / "model_index.json").is_file()
    again = run("--config", settings, "--resume", "--seed", 5)
    assert again.returncode == 1
    assert "seed = 0, now it is 5" in again.stderr


def test_a_killed_harvest_is_resumed_with_its_settings_or_begun_anew(settings: Path, run: Run) -> None:
    write_json(settings.parent / "out" / "train_config.json", {"seed": 7})
    done = run("--config", settings, "--resume")
    assert done.returncode == 1
    assert "cannot resume" in done.stderr
    done = run("--config", settings)
    assert done.returncode == 0, done.stderr


def test_there_is_still_nothing_to_resume_where_nothing_began(settings: Path, run: Run) -> None:
    done = run("--config", settings, "--resume")
    assert done.returncode == 1
    assert "holds no run to resume" in done.stderr


@pytest.mark.parametrize("pipeline", [[], ["--pipeline", "elsewhere"]])
def test_a_removed_output_folder_is_said_and_the_status_is_not_0(
    settings: Path, run: Run, monkeypatch: pytest.MonkeyPatch, pipeline: list[str]
) -> None:
    monkeypatch.chdir(settings.parent)
    out = settings.parent / "out"
    apply = "g_pt.training.early_stopping.WeightChoice.apply"  # after the last step, before the pipeline is saved
    monkeypatch.setattr(apply, lambda choice: shutil.rmtree(out))
    done = run("--config", settings, *pipeline)
    assert done.returncode == 1
    assert "was removed, or emptied, while the training wrote to it" in done.stderr
    assert "saved" not in done.stdout
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_a_folder_removed_midway_ends_the_training(settings: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    out, step = settings.parent / "out", TrainingLog.step

    def remove(log: TrainingLog, number: int, *values: float, **more: float) -> None:
        if number == 15:
            shutil.rmtree(out)
        step(log, number, *values, **more)

    monkeypatch.setattr(TrainingLog, "step", remove)
    done = run("--config", settings)
    assert done.returncode == 1
    assert f"{out}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_wherever_it_is_met(settings: Path, subtests: pytest.Subtests) -> None:
    """A limit on the size of files is what a full disk is: a write fails."""
    assert run_program(MAIN, ["--config", settings, "--output", settings.parent / "first"]) == [0]
    for size in (50, 700, 5_000, 60_000):
        with subtests.test(str(size)):
            reading, writing = multiprocessing.Pipe(duplex=False)
            arguments = ["--config", settings, "--output", settings.parent / str(size)]
            assert run_program(MAIN, arguments, limits=Limits(size, writing)) == [1]
            text = os.read(reading.fileno(), 65_536).decode()
            last = text.strip().splitlines()[-1]
            assert "cannot be written" in last
            assert "unexpected" not in last
            assert "Traceback" not in text


@pytest.mark.parametrize("kind", ["SafetensorError", "PytorchStreamWriter failed writing file"])
def test_errors_of_serialisers_name_the_file(kind: str) -> None:
    with pytest.raises(OSError, match="there/x cannot be written"), named_disk_errors("there/x"):
        raise RuntimeError(kind)
    with pytest.raises(RuntimeError, match="no"), named_disk_errors("there/x"):
        raise RuntimeError("no such thing")


@pytest.mark.parametrize("old", [[1], "settings", None, 5])
def test_settings_that_are_none_are_refused(old: object) -> None:
    with pytest.raises(ValueError, match="must hold the settings of the run"):
        check_resumable(old, {"seed": 0})


def test_damaged_lines_of_a_log_are_left_out(tmp_path: Path) -> None:
    good = [{"step": 10 * k, "loss": 0.5, "grad_norm": float("nan"), "lr": 1e-3} for k in range(1, 5)]
    damaged = [
        b"[1, 2]", b"3", b"null", b'{"loss": 1}', b'{"step": "10"}', b'{"step": 10.5}', b'{"step": 10, "loss": "low"}',
        b'{"step": 10, "prompts": 3}', b'{"step": 10, "prompts": ["a"]}', b"\xff\xfe", b"[" * 100_000, b"",
        b'{"step": 10, "held_out_by_tensor": [1]}',
    ]  # fmt: skip
    lines = [json.dumps(line).encode() for line in good]
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([*lines[:2], *damaged, *lines[2:]]) + b'\n{"step": 50, "lo')
    with pytest.warns(UserWarning, match=r"left 14 damaged lines out of .*log\.jsonl, the first is line 3"):
        log = TrainingLog(tmp_path, 40)
    assert [line["step"] for line in log.lines] == [10, 20, 30, 40]
    written = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in written] == [10, 20, 30, 40]


def test_a_line_cut_inside_a_letter_is_the_kill_of_the_last_one(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    text = '{"step": 10, "loss": 0.5}\n{"step": 20, "name": "é'.encode()
    (tmp_path / "log.jsonl").write_bytes(text[:-1])
    assert [line["step"] for line in TrainingLog(tmp_path, 20).lines] == [10]
    assert not recwarn.list


def test_a_log_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.jsonl")
    with pytest.raises(OSError, match="must be a regular file, got a pipe"):
        TrainingLog(tmp_path, 10)


def test_folders_named_like_a_step_are_none(tmp_path: Path) -> None:
    for name in ("step-abcdefgh", "step-00000010", "step-00000020.tmp", "step-١٢٣٤٥٦٧٨"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    checkpoints = TrainingCheckpoints(tmp_path, {}, None)  # type: ignore[arg-type]
    assert checkpoints.saved_steps() == [10]
