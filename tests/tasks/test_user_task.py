"""A user's file from harvest to sampling: networks with BatchNorm and Dropout, a task that nobody registered."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import build_pipeline, randomise
from dataset_fixtures import ROOT, environment, file_hashes, run_command
from tiny_training import tiny_config
from user_task_files import write_batchnorm_task

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.facts import fit_normalizer, training_facts
from checkpoints_dataset.harvest import harvest
from checkpoints_dataset.pair_sampler import PairSampler
from checkpoints_dataset.store import CheckpointStore
from g_pt.commands import evaluate, sample
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.tasks import get_task, registry
from g_pt.training.loop import fit

SETTINGS = HarvestConfig(
    num_runs=40, num_steps=20, num_checkpoints=4, runs_per_shard=20, batch_size=32, max_abs_param=99
)
FLAGS = ("--num-runs", "6", "--num-steps", "5", "--num-checkpoints", "3", "--runs-per-shard", "4", "--batch-size", "32")


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))


@pytest.fixture
def target(tmp_path: Path) -> str:
    return write_batchnorm_task(tmp_path)


@pytest.fixture
def saved(target: str, tmp_path: Path) -> Path:
    """An untrained pipeline of the task, with random weights, on disk."""
    pipeline = build_pipeline(get_task(target), trained_runs={"test_loss": {"mean": 0.2}, "test_error": {"mean": 5}})
    randomise(pipeline.transformer)
    pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_two_harvests_make_the_same_bytes_wherever_the_file_lies(tmp_path):
    made = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write_batchnorm_task(folder)
        result = run_command("--task", "my_task.py:Blobs", *FLAGS, "--out", "made", cwd=folder)
        assert result.returncode == 0, result.stderr
        made.append(file_hashes(folder / "made"))
    assert made[0] == made[1]
    header = (tmp_path / "a" / "made" / "dataset.json").read_text()
    assert json.loads(header)["task"] == json.loads(header)["source"]["task"] == "blobs"
    assert "my_task.py" not in header
    assert len(CheckpointStore(tmp_path / "a" / "made")) == 18


def test_dropout_does_not_depend_on_the_global_generator_nor_on_earlier_shards(target, tmp_path):
    config = replace(SETTINGS, task=target)
    torch.manual_seed(1)
    harvest(config, tmp_path / "whole")
    state = torch.manual_seed(2).get_state()
    harvest(config, tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), state)
    assert file_hashes(tmp_path / "again") == file_hashes(tmp_path / "whole")
    for file in (tmp_path / "again").glob("shard-00000*"):  # continue with the first shard lost
        file.unlink()
    harvest(config, tmp_path / "again")
    assert file_hashes(tmp_path / "again") == file_hashes(tmp_path / "whole")


def test_training_moves_the_running_statistics_and_helps(target, tmp_path):
    harvest(replace(SETTINGS, task=target), tmp_path / "made")
    store, task = CheckpointStore(tmp_path / "made"), get_task(target)
    params = store.params(store.final_rows("train"))
    tensors = task.layout.unflatten(params)
    assert (tensors["1.running_mean"].abs().amax(dim=1) > 0.5).all()
    # momentum 0.1 over 20 steps: the stored statistics are close to those of the final network
    expected = task.layout.unflatten(task.recalibrate(params))
    torch.testing.assert_close(tensors["1.running_var"], expected["1.running_var"], rtol=0.5, atol=0.5)
    assert store.metrics["loss"][store.step == 20].mean() < 0.7 * store.metrics["loss"][store.step == 0].mean()


def test_a_trained_pipeline_keeps_the_name_of_the_task_and_not_the_file(target, tmp_path, monkeypatch):
    harvest(replace(SETTINGS, task=target), tmp_path / "made")
    store, task = CheckpointStore(tmp_path / "made"), get_task(target)
    config = tiny_config(tmp_path / "run", num_steps=4)
    config = replace(config, task=target, optimizer=replace(config.optimizer, cpu_threads=1))
    pairs = PairSampler(store, "loss", batch_size=8, seed=0)
    fit(config, task, pairs.batch, fit_normalizer(store, "global"), training_facts(store, task, "loss"))
    index = (config.pipeline_folder / "model_index.json").read_text()
    assert json.loads(index)["task"] == "blobs"
    assert "my_task.py" not in index
    pipeline = ParameterUpdatePipeline.from_pretrained(config.pipeline_folder)
    starts = task.init(3, torch.Generator().manual_seed(0))
    updated = pipeline(starts, 0.4, generator=torch.Generator().manual_seed(0)).params
    assert torch.equal(updated, task.recalibrate(updated)), "sampled statistics are replaced"


def test_a_pipeline_cannot_name_a_file_to_run(saved, target):
    registry._TASKS.pop("blobs")
    index = saved / "model_index.json"
    for name in ("blobs", target, "g_pt.tasks.digits:Digits"):
        index.write_text(json.dumps({**json.loads(index.read_text()), "task": name}))
        pipeline = ParameterUpdatePipeline.from_pretrained(saved)
        with pytest.raises(ValueError, match=f"there is no task '{name}'.*get_task"):
            _ = pipeline.task
    index.write_text(json.dumps({**json.loads(index.read_text()), "task": "blobs"}))
    task = get_task(target)  # the user names it himself
    pipeline = ParameterUpdatePipeline.from_pretrained(saved)
    assert isinstance(pipeline.task, type(task))


def refused(main: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 1
    return capsys.readouterr().err


@pytest.mark.slow
def test_gpt_sample_and_gpt_evaluate_take_the_file(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prompt, model = ("--prompt-loss", "0.4"), ("--model", str(saved))
    registry._TASKS.pop("blobs")
    said = refused(sample.main, capsys, *prompt, *model)
    assert "there is no task 'blobs'" in said
    assert "--task my_task.py:MyTask" in said
    assert "no model is bundled for task 'my_task.py:Blobs'" in refused(
        sample.main, capsys, *prompt, "--task", "my_task.py:Blobs"
    )
    registry._TASKS.pop("blobs")
    sample.main([*prompt, *model, "--task", "my_task.py:Blobs", "--json"])
    assert json.loads(capsys.readouterr().out)["task"] == "blobs"
    assert f"there is no file {tmp_path / 'lost.py'}" in refused(
        evaluate.main, capsys, *model, "--task", "lost.py:Blobs"
    )
    said = refused(evaluate.main, capsys, "--task", "my_task.py:Blobs")
    assert "the model is of task 'digits', got task 'blobs'" in said
    registry._TASKS.pop("blobs")
    evaluate.main(
        [
            *model,
            "--task",
            "my_task.py:Blobs",
            "--quick",
            "--sections",
            "prompting",
            "--networks",
            "2",
            "--figure",
            "a.png",
        ]
    )
    assert "a.png" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("target", ["my_task:Blobs", "my_task.py:Blobs"])
def test_the_installed_command_takes_a_module_of_a_plain_directory(tmp_path, target):
    """An installed command has its own folder first on its path, not the user's: PYTHONPATH names that."""
    write_batchnorm_task(tmp_path)
    script = tmp_path / "bin" / "gpt-harvest"
    script.parent.mkdir()
    script.write_text("from g_pt.commands.harvest import main\nmain()\n")
    path = os.pathsep.join([str(ROOT), str(tmp_path)] if "py:" not in target else [str(ROOT)])
    result = subprocess.run(
        [sys.executable, str(script), "--task", target, *FLAGS, "--json"],
        cwd=tmp_path, env={**environment(), "PYTHONPATH": path}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    made = json.loads(result.stdout)
    assert (made["task"], made["runs"], made["checkpoints"]) == ("blobs", 6, 18)
    folder = tmp_path / made["folder"]
    assert folder.name == "checkpoints"
    assert len(CheckpointStore(folder)) == 18
