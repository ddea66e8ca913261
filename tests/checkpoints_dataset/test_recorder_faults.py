"""What goes wrong around a recording: named when it happens, and nothing that was finished is lost."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from dataset_fixtures import environment
from malformed import is_one_sentence
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

from checkpoints_dataset.recorder import CheckpointRecorder, RunLeftOutWarning
from checkpoints_dataset.recording import finish_recording
from checkpoints_dataset.store import CheckpointStore
from g_pt.networks.metrics import Metric


def network() -> nn.Module:
    return nn.Linear(2, 1)


def record(folder, runs=1, **options):
    with CheckpointRecorder(folder, "mine", **options) as recorder:
        for _ in range(runs):
            with recorder.run(network()) as run:
                run.save(0, loss=2.0)
                run.save(10, loss=1.0)
    return CheckpointStore(folder)


@pytest.mark.parametrize("name", ["step", "run", "params"])
def test_a_metric_named_as_a_column_is_refused_at_once(tmp_path, name):
    with pytest.raises(ValueError, match=f"must not be named '{name}'"):
        CheckpointRecorder(tmp_path, "mine", [Metric(name, "")])


def test_two_metrics_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="got 'loss' twice"):
        CheckpointRecorder(tmp_path, "mine", [Metric("loss", "nats"), Metric("loss", "bits")])


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini"])
def test_what_file_managers_leave_makes_no_folder_full(tmp_path, name):
    (tmp_path / name).write_text("x")
    assert len(record(tmp_path)) == 2
    assert len(record(tmp_path)) == 4
    assert (tmp_path / name).exists()


def test_the_files_of_a_recorder_that_was_killed_are_removed_and_no_others(tmp_path):
    record(tmp_path)
    ours = tmp_path / "recorded" / ".run-000007.safetensors.g-pt-4000000-0123abcd.tmp"
    kept = [
        tmp_path / "recorded" / name for name in ("notes.tmp", ".notes.g-pt-4000000-0123abcd.tmp", "run-x.safetensors")
    ]
    for path in (ours, *kept):
        path.touch()
    assert len(record(tmp_path).runs) == 2
    assert not ours.exists()
    assert all(path.exists() for path in kept)


def test_a_folder_that_is_gone_at_the_exit_is_one_line(tmp_path):
    program = (
        "import shutil, sys\nfrom torch import nn\nfrom checkpoints_dataset import CheckpointRecorder\n"
        "recorder = CheckpointRecorder(sys.argv[1], 'mine')\nwith recorder.run(nn.Linear(2, 1)) as run:\n"
        "    run.save(0, loss=2.0); run.save(1, loss=1.0)\nshutil.rmtree(sys.argv[1])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data")]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert ended.stderr.startswith(f"CheckpointRecorder: warning: {tmp_path / 'data'} has been removed")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_close_says_that_the_folder_is_gone(tmp_path):
    recorder = CheckpointRecorder(tmp_path / "data", "mine")
    with recorder.run(network()) as run:
        run.save(0, loss=2.0)
        run.save(1, loss=1.0)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="has been removed, with the runs"):
        recorder.close()


def test_what_comes_after_close_is_kept_or_refused_aloud(tmp_path):
    recorder = CheckpointRecorder(tmp_path, "mine")
    run = recorder.run(network())
    run.save(0, loss=2.0)
    with pytest.warns(RunLeftOutWarning, match="1 runs with checkpoints are not finished"):
        recorder.close()
    run.save(1, loss=1.0)
    run.finish()
    recorder.close()
    assert len(CheckpointStore(tmp_path)) == 2
    with pytest.raises(ValueError, match="the run is finished: nothing more can be saved in it, got step 2"):
        run.save(2, loss=0.5)
    run.finish()  # once more is no second run
    recorder.close()
    assert len(CheckpointStore(tmp_path).runs) == 1


def test_tensors_that_appear_midway_are_named_with_the_cause(tmp_path):
    made = network()
    with pytest.raises(ValueError, match="has other tensors than when the run began") as error:  # noqa: PT012, SIM117
        with CheckpointRecorder(tmp_path, "mine") as recorder, recorder.run(made) as run:
            run.save(0, loss=2.0)
            prune.l1_unstructured(made, "weight", amount=1)
            run.save(1, loss=1.0)
    assert "weight_orig" in str(error.value)
    assert "pruning" in is_one_sentence(error.value)


@pytest.mark.parametrize("step", [-1, 0.5, float("nan"), 2**70])
def test_steps_are_whole_numbers(tmp_path, step):
    with CheckpointRecorder(tmp_path, "mine") as recorder:
        run = recorder.run(network())
        with pytest.raises(ValueError, match="a step must be a whole number from 0 on"):
            run.save(step, loss=1.0)


def test_a_negative_loss_is_refused_where_its_logarithm_is_shown(tmp_path):
    with CheckpointRecorder(tmp_path / "a", "mine") as recorder:
        run = recorder.run(network())
        with pytest.raises(ValueError, match=r"loss must not be negative, since models see its log, got -1\.5"):
            run.save(0, loss=-1.5)
    recorder = CheckpointRecorder(tmp_path / "b", "mine", [Metric("loss", "nats")])
    with recorder, recorder.run(network()) as run:
        run.save(0, loss=-1.5)
        run.save(1, loss=-2.5)
    assert CheckpointStore(tmp_path / "b").metrics["loss"].tolist() == [-1.5, -2.5]


def test_a_value_that_no_float32_holds_leaves_the_run_out(tmp_path):
    record(tmp_path)
    with CheckpointRecorder(tmp_path, "mine") as recorder:
        run = recorder.run(network())
        run.save(0, loss=1.0)
        run.save(1, loss=1e39)
        with pytest.warns(RunLeftOutWarning, match=r"loss is 1e\+39 at step 1"):
            run.finish()
    assert len(CheckpointStore(tmp_path).runs) == 1


def test_metadata_that_is_no_json_is_refused_before_the_training(tmp_path):
    with CheckpointRecorder(tmp_path, "mine") as recorder, pytest.raises(ValueError, match="metadata of a run must be"):
        recorder.run(network(), device=torch.device("cpu"))


def changed(**tensors):
    def damage(path):
        found = {**load_file(path), **tensors}
        save_file({name: tensor for name, tensor in found.items() if tensor is not None}, path)

    return damage


DAMAGED = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "without steps": changed(step=None),
    "without parameters": changed(params=None),
    "without the metric": changed(**{"metric.loss": None}),
    "of another width": changed(params=torch.zeros(2, 5)),
    "falling steps": changed(step=torch.tensor([5, 3])),
    "steps of floats": changed(step=torch.tensor([0.0, 3.0])),
    "NaN": changed(params=torch.full((2, 3), torch.nan)),
    "a scalar": changed(step=torch.tensor(3)),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_recorded_run_that_is_damaged_is_named_and_the_others_come_in_without_it(tmp_path, name):
    record(tmp_path, runs=3)
    path = tmp_path / "recorded" / "run-000001.safetensors"
    DAMAGED[name](path)
    (tmp_path / "shard-00000.json").unlink()  # as after a kill while the shard was made anew
    with pytest.raises(
        ValueError, match=r"run-000001\.safetensors holds no run of this dataset .*move it away"
    ) as error:
        finish_recording(tmp_path)
    is_one_sentence(error.value)
    os.replace(path, tmp_path / "elsewhere")
    finish_recording(tmp_path)
    (tmp_path / "elsewhere").unlink()
    assert [run.run for run in CheckpointStore(tmp_path).runs] == [0, 2]
