"""Two processes do what one does, and what is killed resumes to the same bytes: both stages, and the harvest."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dataset_fixtures import POLICIES, SMALL, environment, file_hashes
from launched import Death, free_port, run_program
from safetensors.torch import load_file

from checkpoints_dataset.harvest import harvest

ROOT = Path(__file__).parents[2]
PROGRAM = "train.train_g_pt:main"
SETTINGS = """
harvest: {num_runs: 60, num_steps: 20, num_checkpoints: 5, runs_per_shard: 15}
model: {width: 16, num_layers: 1, num_heads: 2, num_frequencies: 4}
pairs: {batch_size: 8}
optimizer: {num_steps: 20, warmup_steps: 5, mixed_precision: "no", cpu_threads: 1}
alignment: {num_steps: 10, batch_size: 4, num_examples: 32}
progress: {evaluate_every: 10, num_networks: 4, num_prompts: 3, save_every: 5}
"""
STAGES = {"base": "", "pipeline": "alignment"}  # folder of the pipeline, and that of log and checkpoints


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    (folder / "settings.yaml").write_text(SETTINGS)
    return folder


def arguments(work: Path, output: str, *more: str | Path) -> list[str]:
    return [str(a) for a in ("--config", work / "settings.yaml", "--dataset", work / "data", "--output", work / output,
                             *more)]  # fmt: skip


@pytest.fixture(scope="module")
def launched(work: Path) -> subprocess.CompletedProcess[str]:
    """Two processes by torchrun, which harvest and then train both stages, as a user would have it on two cores."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(free_port()),
    ]
    program = str(ROOT / "train" / "train_g_pt.py")
    done = subprocess.run(
        [*command, program, *arguments(work, "two")], env=environment(), capture_output=True, text=True, timeout=1000
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def one(work: Path, launched: subprocess.CompletedProcess[str]) -> Path:
    """The same by one process, on the dataset that the two have made."""
    assert run_program(PROGRAM, arguments(work, "one")) == [0]
    return work / "one"


def log_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def everything(output: Path) -> dict[str, object]:
    """Weights, averages, optimizers, choices, logs and pipelines of both stages."""
    found: dict[str, object] = {}
    for pipeline, stage in STAGES.items():
        last = sorted((output / stage / "checkpoints").iterdir())[-1]
        found[f"{stage} step"] = last.name
        found[f"{stage} log"] = (output / stage / "log.jsonl").read_text()
        for name in ("optimizer.bin", "averages.pt", "choice.pt"):
            found[f"{stage} {name}"] = torch.load(last / name, weights_only=True)
        found[f"{stage} weights"] = load_file(last / "model.safetensors")
        found[pipeline] = load_file(output / pipeline / "transformer" / "diffusion_pytorch_model.safetensors")
    return found


def assert_same(one: object, other: object, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{i}")
    else:
        assert one == other, where


@pytest.mark.slow
def test_two_processes_have_the_loss_curves_of_one_in_both_stages(work: Path, one: Path) -> None:
    for stage in STAGES.values():
        ours, others = log_of(work / "two" / stage), log_of(one / stage)
        assert [line["step"] for line in ours] == [line["step"] for line in others]
        for name in ("loss", "grad_norm", "update_norm", "held_out_loss"):
            values = [[line[name] for line in lines if name in line] for lines in (ours, others)]
            assert values[0]
            assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-6), f"{stage} {name}"
    a, b = (load_file(f / "pipeline/transformer/diffusion_pytorch_model.safetensors") for f in (work / "two", one))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_processes_harvest_the_bytes_of_one_and_say_things_once(
    work: Path, launched: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    harvest(SMALL, tmp_path / "one")
    assert run_program("g_pt.commands.harvest:main", harvest_flags(tmp_path / "two"), processes=2) == [0, 0]
    assert file_hashes(tmp_path / "two") == file_hashes(tmp_path / "one")
    assert launched.stderr.count("300 checkpoints of 60 runs, 0 runs left out") == 1
    assert launched.stdout.count("saved ") == 1
    # so short a training may end with this one, said once; no other
    assert launched.stderr.count("warning") == launched.stderr.count("answers every prompt nearly alike") <= 1


def harvest_flags(folder: Path) -> list[str]:
    return [
        "--num-runs", "40", "--num-steps", "12", "--num-checkpoints", "5", "--runs-per-shard", "15",
        "--out", str(folder),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_harvest_of_which_a_process_is_killed_loses_one_shard_and_continues(tmp_path: Path) -> None:
    harvest(SMALL, tmp_path / "whole")
    death = Death("checkpoints_dataset.harvest:train_population", rank=1)  # with its only shard trained but not written
    codes = run_program("g_pt.commands.harvest:main", harvest_flags(tmp_path / "parts"), processes=2, death=death)
    assert codes == [1, -signal.SIGKILL]
    finished = sorted(path.name for path in (tmp_path / "parts").glob("shard-*.json"))
    assert finished == ["shard-00000.json", "shard-00002.json"]
    assert run_program("g_pt.commands.harvest:main", harvest_flags(tmp_path / "parts"), processes=2) == [0, 0]
    assert file_hashes(tmp_path / "parts") == file_hashes(tmp_path / "whole")


@pytest.mark.slow
def test_processes_share_the_harvest_of_policies_too(tmp_path: Path) -> None:
    harvest(POLICIES, tmp_path / "one")
    flags = [
        "--task", "cartpole", "--num-runs", "22", "--num-steps", "3", "--num-checkpoints", "4",
        "--runs-per-shard", "11", "--ppo.n-steps", "8", "--ppo.n-epochs", "1", "--out", str(tmp_path / "two"),
    ]  # fmt: skip
    assert run_program("g_pt.commands.harvest:main", flags, processes=2) == [0, 0]
    assert file_hashes(tmp_path / "two") == file_hashes(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize(
    "death",
    [
        pytest.param(Death("g_pt.training.log:TrainingLog.add"), id="before the first checkpoint"),
        pytest.param(Death("accelerate:Accelerator.save_state", 2), id="while a checkpoint is written"),
        pytest.param(Death("g_pt.training.saving:save_whole"), id="between the stages"),
        pytest.param(Death("accelerate:Accelerator.save_state", 6), id="in a checkpoint of the second stage"),
        pytest.param(
            Death("g_pt.model.pipeline:ParameterUpdatePipeline.save_pretrained", 2), id="while the result is saved"
        ),
    ],
)
def test_a_killed_run_resumes_to_the_uninterrupted_one(work: Path, one: Path, death: Death) -> None:
    output = work / "killed"
    shutil.rmtree(output, ignore_errors=True)
    assert run_program(PROGRAM, arguments(work, "killed"), death=death) == [-signal.SIGKILL]
    assert not (output / "pipeline").exists()
    assert run_program(PROGRAM, arguments(work, "killed", "--resume")) == [0]
    assert_same(everything(output), everything(one))


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_resume_to_the_uninterrupted_run(
    work: Path, launched: subprocess.CompletedProcess[str]
) -> None:
    death = Death("accelerate:Accelerator.save_state", 5, rank=1)  # of the second stage, half-written
    codes = run_program(PROGRAM, arguments(work, "killed-two"), processes=2, death=death)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] != 0
    assert run_program(PROGRAM, arguments(work, "killed-two", "--resume"), processes=2) == [0, 0]
    assert_same(everything(work / "killed-two"), everything(work / "two"))


def test_a_launch_that_made_one_process_of_several_is_refused(work: Path) -> None:
    """What `accelerate launch --cpu --num_processes 2` leaves in the environment."""
    trap = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    from g_pt.runtime.processes import check_launch

    check_launch()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in trap.items():
            patch.setenv(name, value)
        with pytest.raises(ValueError, match=r"asked for several processes but has started one.*--multi_gpu"):
            check_launch()
        patch.setenv("WORLD_SIZE", "2")
        check_launch()
    assert "MASTER_ADDR" not in os.environ
