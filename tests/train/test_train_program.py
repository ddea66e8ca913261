"""The training program as a user runs it, killed midway included."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from in_process import run_in_process
from launched import Death, run_program
from safetensors.torch import load_file

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.harvest import describe_source
from g_pt.files.config import merge
from g_pt.tasks.digits import Digits
from g_pt.update_rules.first_order import RMSprop
from g_pt.update_rules.gradient import NesterovRule, RMSpropRule
from train import train_g_pt

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "train" / "train_g_pt.py"
MAIN = "train.train_g_pt:main"
Run = Callable[..., subprocess.CompletedProcess[str]]
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


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The program in this process."""

    def call(*arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
        AcceleratorState._reset_state(reset_partial_state=True)
        return run_in_process(train_g_pt.main, [str(argument) for argument in arguments], capsys)

    return call


@pytest.mark.slow
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
    assert "CPU threads of each process: 1" in done.stdout


@pytest.mark.slow
def test_what_is_wrong_is_the_last_word_under_a_quiet_launcher(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--quiet", "--num_processes", "1"]
    done = subprocess.run([*launch, str(PROGRAM), "--task", "nothing"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("train_g_pt.py: ")]
    assert len(said) == 1
    assert said[0].startswith("train_g_pt.py: there is no task 'nothing'; tasks are [")
    assert done.stderr.rstrip().endswith(said[0])
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(settings: Path) -> None:
    folder = settings.parent
    assert run_program(MAIN, ["--config", settings]) == [0]
    killed = ("--config", settings, "--output", folder / "killed")
    death = Death("accelerate:Accelerator.save_state", 3)  # with the third checkpoint half-written
    assert run_program(MAIN, killed, death=death) == [-signal.SIGKILL]
    assert run_program(MAIN, [*killed, "--resume"]) == [0]
    weights = "transformer/diffusion_pytorch_model.safetensors"
    a, b = (load_file(folder / output / "pipeline" / weights) for output in ("out", "killed"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_a_second_stage_follows_the_first_and_resumes_after_a_kill(settings: Path) -> None:
    """Two runs: one is killed in the second stage, the other begins it late, after other settings were given."""
    folder = settings.parent
    short = ("--config", settings, "--optimizer.num-steps", 20, "--progress.evaluate-every", 0)
    aligned = ("--alignment.num-steps", 14, "--alignment.batch-size", 4, "--alignment.num-examples", 32)
    aligned += ("--alignment.teacher-runs", 5, "--alignment.teacher-examples", 100)
    killed = (*short, *aligned, "--output", folder / "killed")
    death = Death("g_pt.training.checkpoints:TrainingCheckpoints.save", 3)  # two of the first stage, one of the second
    assert run_program(MAIN, killed, death=death) == [-signal.SIGKILL]
    assert [p.name for p in (folder / "killed" / "alignment" / "checkpoints").iterdir()] == ["step-00000010"]
    assert (folder / "killed" / "base" / "model_index.json").is_file()
    assert not (folder / "killed" / "pipeline").exists()
    assert run_program(MAIN, [*killed, "--resume"]) == [0]
    assert run_program(MAIN, [*short, "--output", folder / "late", "--alignment.learning-rate", "0.5"]) == [0]
    assert not (folder / "late" / "base").exists()
    assert run_program(MAIN, [*short, *aligned, "--output", folder / "late", "--resume"]) == [0]
    weights = "transformer/diffusion_pytorch_model.safetensors"
    a, b = (
        {part: load_file(folder / name / part / weights) for part in ("base", "pipeline")}
        for name in ("killed", "late")
    )
    for part in ("base", "pipeline"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    assert not torch.equal(a["base"]["norm.weight"], a["pipeline"]["norm.weight"])


def test_what_cannot_be_aligned_is_refused_before_the_first_stage(settings: Path, run: Run) -> None:
    aligned = "--alignment.num-steps", "5", "--alignment.batch-size", "4", "--alignment.gradient", "exact"
    done = run("--config", settings, "--metric", "error", *aligned)
    assert done.returncode == 1
    assert "metric 'error' of task 'digits' has no exact gradient" in done.stderr
    assert not (settings.parent / "data").exists()


WRONG = {
    ("--preset", "digitz"): "presets are ['cartpole', 'cifar10', 'digits'",
    ("--config", "absent.yaml"): "there is no settings file absent.yaml",
    ("--task", "digitz"): "Did you mean 'digits'",
    ("--metric", "accuracy"): "it has ['error', 'loss']",
    ("--model.num-layers", "1000000000"): "model.num_layers must be 1 to 10000, got 1000000000",
    ("--model.width", "1000000", "--model.edge-width", "8"): "a model of 4 layers of width 1,000,000 would take about",
    ("--pairs.batch-size", "1000000000"): "a batch of 1,000,000,000 pairs would take about",
}


def test_wrong_names_are_refused_with_what_exists(run: Run, subtests: pytest.Subtests) -> None:
    for arguments, message in WRONG.items():
        with subtests.test(" ".join(arguments)):
            done = run(*arguments)
            assert done.returncode != 0
            assert message in done.stderr
            assert "Traceback" not in done.stderr


def test_a_wrong_key_in_a_file_is_refused_with_a_guess(tmp_path: Path, run: Run) -> None:
    (tmp_path / "wrong.yaml").write_text("optimizer: {learning_rat: 0.1}\n")
    done = run("--config", tmp_path / "wrong.yaml")
    assert done.returncode == 2
    assert "there is no setting 'learning_rat'" in done.stderr
    assert "Did you mean 'learning_rate'?" in done.stderr


def test_a_wrong_flag_is_refused_by_the_file_as_it_is_run() -> None:
    done = subprocess.run(command("--optimizer.num-stepz", "3"), capture_output=True, text=True)
    assert done.returncode == 2
    assert "num-steps" in done.stdout + done.stderr


def test_every_preset_has_known_settings(run: Run) -> None:
    for preset in (ROOT / "train" / "presets").glob("*.yaml"):
        done = run("--preset", preset.stem, "--help")
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_processes_that_do_not_know_each_other_are_refused(settings: Path) -> None:
    done = subprocess.run(
        command("--config", settings), capture_output=True, text=True, env={**os.environ, "WORLD_SIZE": "2"}
    )
    assert done.returncode == 1
    assert "2 processes were launched, but Accelerate joins 1" in done.stderr


@pytest.mark.slow
def test_a_dataset_made_otherwise_is_used_with_a_warning_and_other_folders_stay(settings: Path, run: Run) -> None:
    (settings.parent / "mine").mkdir()
    (settings.parent / "mine" / "thesis.tex").touch()
    refused = run("--config", settings, "--pipeline", settings.parent / "mine")
    assert refused.returncode == 1
    assert "neither empty nor a saved pipeline" in refused.stderr
    assert not (settings.parent / "data").exists(), "refused before anything was made"
    short = ("--config", settings, "--optimizer.num-steps", 4, "--progress.evaluate-every", 0)
    assert run(*short).returncode == 0
    data = ("--dataset", settings.parent / "data", *short[2:], "--output", settings.parent / "quiet")
    tiny = ("--model.width", 16, "--model.num-layers", 1, "--model.num-heads", 2, "--pairs.batch-size", 8)
    quiet = run(*data, *tiny, "--progress.evaluate-every", 4, "--progress.num-networks", 4, "--json")
    assert quiet.returncode == 0, quiet.stderr
    assert "was made with" not in quiet.stderr  # of 40 runs, where 4,000 are the default: the dataset was named
    made, last = json.loads(quiet.stdout), (settings.parent / "quiet" / "log.jsonl").read_text().splitlines()[-1]
    assert made["alignment"] == json.loads(last)["alignment"]
    assert f"prompt alignment {made['alignment']:.3f} on 4 held-out inits" in quiet.stderr
    warned = run(*short, "--output", settings.parent / "other", "--harvest.num-runs", "5000")
    assert warned.returncode == 0, warned.stderr
    assert "data was made with num_runs = 40, not 5000" in warned.stderr


def test_warnings_of_other_data_know_settings_that_are_not_set(capsys: pytest.CaptureFixture[str]) -> None:
    from g_pt.commands.train import warn_of_other_data

    def warnings(source: dict[str, object], harvest: HarvestConfig) -> list[str]:
        warn_of_other_data(source, harvest.to_json(), Path("data"), prog="train_g_pt.py")
        return capsys.readouterr().err.splitlines()

    plain, ranged = HarvestConfig(), HarvestConfig(rule=NesterovRule(learning_rate_range=(0.01, 0.3)))
    for config in (plain, ranged):
        assert warnings({"kind": "harvest", **json.loads(json.dumps(config.to_json()))}, config) == []
        assert warnings({"kind": "of my own"}, config) == []
    made, asked = "data was made with rule.learning_rate_range = None", "not [0.01, 0.3]"
    assert warnings({"kind": "harvest", **plain.to_json()}, ranged) == [f"train_g_pt.py: warning: {made}, {asked}"]
    [warning] = warnings({"kind": "harvest", **ranged.to_json()}, plain)
    assert warning.endswith("data was made with rule.learning_rate_range = [0.01, 0.3], not None")


def test_a_dataset_of_a_part_of_the_data_is_warned_of_only_where_the_whole_is_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from g_pt.commands.train import warn_of_other_data

    class Part(Digits):
        data_subset = "digits-300"

    config = HarvestConfig()
    made = describe_source(config, Part())
    warn_of_other_data(made, describe_source(config, Part()), Path("data"), prog="train_g_pt.py")
    assert capsys.readouterr().err == ""
    warn_of_other_data(made, describe_source(config, Digits()), Path("data"), prog="train_g_pt.py")
    assert "data was made with data = 'digits-300', not None" in capsys.readouterr().err


def test_a_preset_can_set_a_range_of_learning_rates() -> None:
    from g_pt.commands.train import Program

    program = merge(Program(), {"harvest": {"learning_rate_range": ["1e-2", 0.3], "optimizer": "rmsprop"}}, "x.yaml")
    earlier = RMSpropRule(RMSprop(0.9, 5e-4), learning_rate_range=(0.01, 0.3), learning_rate=0.1)
    assert program.harvest == HarvestConfig(rule=earlier)
    rule = {"name": "rmsprop", "learning_rate_range": ["1e-2", 0.3]}
    program = merge(Program(), {"harvest": {"rule": rule}}, "x.yaml")
    assert program.harvest == HarvestConfig(rule=RMSpropRule(learning_rate_range=(0.01, 0.3)))
