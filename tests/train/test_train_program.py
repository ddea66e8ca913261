"""The training program as a user runs it, killed midway included."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.harvest import source_of
from g_pt.files.config import merge
from g_pt.tasks.digits import Digits

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "train" / "train_g_pt.py"
TINY = """
dataset: {folder}/data
output: {folder}/out
harvest: {{num_runs: 40, num_steps: 40, num_checkpoints: 6, runs_per_shard: 20}}
model: {{width: 16, num_layers: 1, num_heads: 2}}
pairs: {{batch_size: 8}}
optimizer: {{num_steps: 60, warmup_steps: 5, mixed_precision: "no", cpu_threads: 1}}
progress: {{evaluate_every: 30, num_networks: 4, num_prompts: 3, save_every: 10}}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY.format(folder=tmp_path))
    return file


def command(*arguments: str | Path | int) -> list[str]:
    return [sys.executable, str(PROGRAM), *map(str, arguments)]


def run(*arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True)


def test_accelerate_launch_harvests_trains_and_saves(settings: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "1", "--cpu"]
    done = subprocess.run([*launch, str(PROGRAM), "--config", str(settings)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = settings.parent / "out"
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "alignment" in line] == [30, 60]
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "pipeline" / "model_index.json").is_file()
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step-00000050", "step-00000060"]


def test_a_killed_run_resumes_to_the_same_weights(settings: Path) -> None:
    folder = settings.parent
    whole = run("--config", settings)
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(command("--config", settings, "--output", folder / "killed"), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list((folder / "killed" / "checkpoints").glob("step-????????")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    resumed = run("--config", settings, "--output", folder / "killed", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    weights = "transformer/diffusion_pytorch_model.safetensors"
    a, b = (load_file(folder / output / "pipeline" / weights) for output in ("out", "killed"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_second_stage_follows_the_first_and_resumes_after_a_kill(settings: Path) -> None:
    """Two runs: one is killed in the second stage, the other begins it late, after other settings were given."""
    folder = settings.parent
    short = ("--config", settings, "--optimizer.num-steps", 20, "--progress.evaluate-every", 0)
    aligned = ("--alignment.num-steps", 40, "--alignment.batch-size", 4, "--alignment.num-examples", 32)
    killed = (*short, *aligned, "--output", folder / "killed")
    process = subprocess.Popen(command(*killed), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    checkpoints = folder / "killed" / "alignment" / "checkpoints"
    while not list(checkpoints.glob("step-????????")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert (folder / "killed" / "base" / "model_index.json").is_file()
    assert not (folder / "killed" / "pipeline").exists()
    resumed = run(*killed, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    late = run(*short, "--output", folder / "late", "--alignment.learning-rate", "0.5")
    assert late.returncode == 0, late.stderr
    assert not (folder / "late" / "base").exists()
    late = run(*short, *aligned, "--output", folder / "late", "--resume")
    assert late.returncode == 0, late.stderr
    weights = "transformer/diffusion_pytorch_model.safetensors"
    a, b = (
        {part: load_file(folder / name / part / weights) for part in ("base", "pipeline")}
        for name in ("killed", "late")
    )
    for part in ("base", "pipeline"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    assert not torch.equal(a["base"]["norm.weight"], a["pipeline"]["norm.weight"])


def test_what_cannot_be_aligned_is_refused_before_the_first_stage(settings: Path) -> None:
    aligned = "--alignment.num-steps", "5", "--alignment.batch-size", "4", "--alignment.gradient", "exact"
    done = run("--config", settings, "--metric", "error", *aligned)
    assert done.returncode == 1
    assert "metric 'error' of task 'digits' has no exact gradient" in done.stderr
    assert not (settings.parent / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "digitz"], "presets are ['cartpole', 'cifar10', 'digits'"),
        (["--config", "absent.yaml"], "there is no settings file absent.yaml"),
        (["--task", "digitz"], "Did you mean 'digits'"),
        (["--metric", "accuracy"], "it has ['error', 'loss']"),
    ],
)
def test_wrong_names_are_refused_with_what_exists(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_key_in_a_file_is_refused_with_a_guess(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("optimizer: {learning_rat: 0.1}\n")
    done = run("--config", tmp_path / "wrong.yaml")
    assert done.returncode == 2
    assert "there is no setting 'learning_rat'" in done.stderr
    assert "Did you mean 'learning_rate'?" in done.stderr


def test_a_wrong_flag_is_refused() -> None:
    done = run("--optimizer.num-stepz", "3")
    assert done.returncode == 2
    assert "num-steps" in done.stdout + done.stderr


def test_every_preset_has_known_settings() -> None:
    for preset in (ROOT / "train" / "presets").glob("*.yaml"):
        done = run("--preset", preset.stem, "--help")
        assert done.returncode == 0, done.stderr


def test_processes_that_do_not_know_each_other_are_refused(settings: Path) -> None:
    done = subprocess.run(
        command("--config", settings), capture_output=True, text=True, env={**os.environ, "WORLD_SIZE": "2"}
    )
    assert done.returncode == 1
    assert "2 processes were launched, but Accelerate joins 1" in done.stderr


def test_a_dataset_made_otherwise_is_used_with_a_warning_and_other_folders_stay(settings: Path) -> None:
    (settings.parent / "mine").mkdir()
    (settings.parent / "mine" / "thesis.tex").touch()
    refused = run("--config", settings, "--pipeline", settings.parent / "mine")
    assert refused.returncode == 1
    assert "neither empty nor a saved pipeline" in refused.stderr
    assert not (settings.parent / "data").exists(), "refused before anything was made"
    assert run("--config", settings).returncode == 0
    warned = run("--config", settings, "--output", settings.parent / "other", "--harvest.num-runs", "5000")
    assert warned.returncode == 0, warned.stderr
    assert "data was made with num_runs = 40, not 5000" in warned.stderr


def test_warnings_of_other_data_know_settings_that_are_not_set(capsys: pytest.CaptureFixture[str]) -> None:
    from g_pt.commands.train import warn_of_other_data

    def warnings(source: dict[str, object], harvest: HarvestConfig) -> list[str]:
        warn_of_other_data(source, harvest.to_json(), Path("data"), prog="train_g_pt.py")
        return capsys.readouterr().err.splitlines()

    plain, ranged = HarvestConfig(), HarvestConfig(learning_rate_range=(0.01, 0.3))
    for config in (plain, ranged):
        assert warnings({"kind": "harvest", **json.loads(json.dumps(config.to_json()))}, config) == []
        assert warnings({"kind": "of my own"}, config) == []
    made, asked = "data was made with learning_rate_range = None", "not [0.01, 0.3]"
    assert warnings({"kind": "harvest", **plain.to_json()}, ranged) == [f"train_g_pt.py: warning: {made}, {asked}"]
    [warning] = warnings({"kind": "harvest", **ranged.to_json()}, plain)
    assert warning.endswith("data was made with learning_rate_range = [0.01, 0.3], not None")


def test_a_dataset_of_a_part_of_the_data_is_warned_of_only_where_the_whole_is_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from g_pt.commands.train import warn_of_other_data

    class Part(Digits):
        data_subset = "digits-300"

    config = HarvestConfig()
    made = source_of(config, Part())
    warn_of_other_data(made, source_of(config, Part()), Path("data"), prog="train_g_pt.py")
    assert capsys.readouterr().err == ""
    warn_of_other_data(made, source_of(config, Digits()), Path("data"), prog="train_g_pt.py")
    assert "data was made with data = 'digits-300', not None" in capsys.readouterr().err


def test_a_preset_can_set_a_range_of_learning_rates() -> None:
    from g_pt.commands.train import Program

    program = merge(Program(), {"harvest": {"learning_rate_range": ["1e-2", 0.3], "optimizer": "rmsprop"}}, "x.yaml")
    assert program.harvest == HarvestConfig(learning_rate_range=(0.01, 0.3), optimizer="rmsprop")
