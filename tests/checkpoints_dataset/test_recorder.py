"""A user's own loop writes runs into a dataset: in turn, from several processes, killed midway."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from dataset_fixtures import environment, finished_harvest
from torch import nn

from checkpoints_dataset import CheckpointRecorder, CheckpointStore
from checkpoints_dataset.format import StoreError
from checkpoints_dataset.recorder import RunLeftOutWarning
from checkpoints_dataset.recording import finish_recording, waiting_runs
from g_pt.networks.metrics import Metric
from g_pt.tasks.classification import ERROR, LOSS


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))


def flat(net: nn.Module) -> torch.Tensor:
    return torch.cat([t.flatten() for t in net.state_dict().values() if t.is_floating_point()])


def record(recorder: CheckpointRecorder, seed: int, num_checkpoints: int = 3) -> nn.Module:
    net = network(seed)
    with recorder.run(net, seed=seed) as run:
        for step in range(num_checkpoints):
            run.save(10 * step, loss=1.0 / (step + 1) + seed)
            with torch.no_grad():
                net[0].weight += 1
    return net


def test_a_plain_loop_is_recorded_exactly(tmp_path: Path) -> None:
    x, y = torch.randn(64, 2), torch.randn(64, 1)
    kept = []
    with CheckpointRecorder(tmp_path / "made", "mine", metrics=(LOSS, ERROR)) as recorder:
        for seed in range(3):
            net = network(seed)
            optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
            with recorder.run(net, seed=seed) as run:
                for step in range(21):
                    loss = (net(x) - y).square().mean()
                    if step % 10 == 0:
                        run.save(step, loss=loss, error=50.0 - step)
                        kept.append(flat(net))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
    store = CheckpointStore(tmp_path / "made")
    assert store.header.task == "mine"
    assert store.header.layout.names == tuple(n for n, t in net.state_dict().items() if t.is_floating_point())
    assert [(r.run, r.num_checkpoints, r.metadata) for r in store.runs] == [(i, 3, {"seed": i}) for i in range(3)]
    assert store.step.tolist() == [0, 10, 20] * 3
    assert torch.equal(store.params([*range(9)]), torch.stack(kept)), "float32 keeps every bit, running statistics too"
    assert store.metrics["error"].tolist() == [50, 40, 30] * 3
    assert all(store.metrics["loss"][r.first_row] > store.metrics["loss"][r.first_row + 2] for r in store.runs)


def test_runs_added_later_fill_shards_and_keep_their_numbers(tmp_path: Path) -> None:
    for part in range(4):  # four programs, one after another
        with CheckpointRecorder(tmp_path, "mine", runs_per_shard=5) as recorder:
            for seed in range(3):
                record(recorder, 3 * part + seed, num_checkpoints=2 + seed)
        store = CheckpointStore(tmp_path)
        assert [r.metadata["seed"] for r in store.runs] == [r.run for r in store.runs] == [*range(3 * part + 3)]
    assert store.header.num_shards == 3, "12 runs in shards of 5"
    assert list(waiting_runs(tmp_path)) == [10, 11], "those of full shards are not kept twice"
    assert [r.num_checkpoints for r in store.runs] == [2, 3, 4] * 4
    rows = [r.first_row for r in store.runs]
    assert store.metrics["loss"][rows].tolist() == [1.0 + seed for seed in range(12)]
    expected = torch.stack(
        [torch.cat([t.flatten() for t in network(s).state_dict().values() if t.dim()]) for s in range(12)]
    )
    assert torch.equal(store.params(rows), expected)


def test_the_dataset_can_be_read_while_it_grows(tmp_path: Path) -> None:
    recorder = CheckpointRecorder(tmp_path, "mine", runs_per_shard=6)
    seen = []
    for seed in range(14):
        record(recorder, seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            store = CheckpointStore(tmp_path)
        seen.append(len(store.runs))
        missing = seed + 1 - len(store.runs)
        assert [f"{missing} recorded runs are not in" in str(w.message) for w in caught] == [True] * (missing > 0)
    assert seen == sorted(seen)
    assert all(2 * n >= i + 1 for i, n in enumerate(seen)), "at least half of the runs are in shards"
    recorder.close()
    assert len(CheckpointStore(tmp_path).runs) == 14


def interrupted(recorder: CheckpointRecorder) -> None:
    with recorder.run(network()) as run:
        run.save(0, loss=1.0)
        run.save(1, loss=0.5)
        raise ZeroDivisionError


def test_an_exception_drops_the_run_at_hand_only(tmp_path: Path) -> None:
    with CheckpointRecorder(tmp_path, "mine") as recorder:
        record(recorder, 0)
        with pytest.raises(ZeroDivisionError):
            interrupted(recorder)
        record(recorder, 1)
    assert [r.metadata["seed"] for r in CheckpointStore(tmp_path).runs] == [0, 1]


def test_runs_that_diverge_or_have_one_checkpoint_are_left_out_with_a_warning(tmp_path: Path) -> None:
    with CheckpointRecorder(tmp_path, "mine", dtype="float16") as recorder:
        for values, scale, said in (([1.0, float("nan")], 0, "loss is nan at step 1"), ([1.0], 0, "1 checkpoints"),
                                    ([1.0, 0.5], 1e6, "a parameter is not finite in float16 at step 1")):  # fmt: skip
            net = network()
            run = recorder.run(net)
            for step, value in enumerate(values):
                with torch.no_grad():
                    net[0].weight += step * scale
                run.save(step, loss=value)
            with pytest.warns(RunLeftOutWarning, match=said):
                run.finish()
            assert run.number is None
        record(recorder, 5)
    (kept,) = CheckpointStore(tmp_path).runs
    assert kept.metadata == {"seed": 5}


PROGRAM = """
import sys, time
import torch
from torch import nn
from checkpoints_dataset import CheckpointRecorder

folder, seed, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
recorder = CheckpointRecorder(folder, "mine", runs_per_shard=4)
for i in range(5):
    net = nn.Linear(2, 1)
    with recorder.run(net, seed=seed, i=i) as run:
        torch.nn.init.constant_(net.weight, 100 * seed + i)
        run.save(0, loss=1.0)
        print("saved", flush=True)
        time.sleep(pause)
        run.save(1, loss=0.5)
    print("finished", flush=True)
"""


def program(folder: Path, seed: int, pause: float = 0.0) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", PROGRAM, str(folder), str(seed), str(pause)]
    return subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_several_processes_record_into_one_dataset(tmp_path: Path) -> None:
    processes = [program(tmp_path, seed, 0.01) for seed in range(3)]  # none closes its recorder: exiting does
    for process in processes:
        process.communicate(timeout=250)
        assert process.returncode == 0
    store = CheckpointStore(tmp_path)
    assert [r.run for r in store.runs] == [*range(15)]
    made = {(r.metadata["seed"], r.metadata["i"]): r.first_row for r in store.runs}
    assert set(made) == {(seed, i) for seed in range(3) for i in range(5)}
    for (seed, i), row in made.items():
        assert store.params([row])[0, :2].tolist() == [100 * seed + i] * 2


def test_a_killed_program_keeps_finished_runs_and_drops_the_other(tmp_path: Path) -> None:
    process = program(tmp_path, 7, 0.2)
    lines = [process.stdout.readline().strip() for _ in range(7)]
    assert lines[-1] == "saved"  # in the fourth run
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finish_recording(tmp_path)
    assert [r.metadata["i"] for r in CheckpointStore(tmp_path).runs] == [0, 1, 2]
    with CheckpointRecorder(tmp_path, "mine", runs_per_shard=4) as recorder, recorder.run(nn.Linear(2, 1)) as run:
        run.save(0, loss=1.0)
        run.save(1, loss=1.0)
    assert run.number == 3


@pytest.mark.parametrize("stop_before", range(1, 7))
def test_a_kill_while_shards_are_made_loses_no_finished_run(tmp_path: Path, stop_before: int, monkeypatch) -> None:
    from checkpoints_dataset import recording, writer

    recorder = CheckpointRecorder(tmp_path, "mine", runs_per_shard=4)
    for seed in range(7):  # shards of 4 and 2, the seventh waits
        record(recorder, seed)
    written = 0

    def killing(function):
        def call(*arguments, **options):
            nonlocal written
            written += 1
            if written == stop_before:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    for module, name in (
        (recording, "write_json"),
        (writer, "write_json"),
        (writer, "write_tensors"),
        (writer, "fingerprint"),
    ):
        monkeypatch.setattr(module, name, killing(getattr(module, name)))
    try:
        recorder.close()
    except KeyboardInterrupt:
        assert written == stop_before
    else:
        assert written < stop_before, "there are fewer writes than that"
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [r.metadata["seed"] for r in CheckpointStore(tmp_path).runs][:4] == [0, 1, 2, 3], "readable in between"
    finish_recording(tmp_path)
    store = CheckpointStore(tmp_path)
    assert [r.metadata["seed"] for r in store.runs] == [*range(7)]


def test_other_networks_metrics_and_folders_are_refused(tmp_path: Path) -> None:
    with CheckpointRecorder(tmp_path / "made", "mine") as recorder:
        record(recorder, 0)
        with pytest.raises(ValueError, match=r"Linear is not a network of this model: tensor '0.weight'"):
            recorder.run(nn.Linear(2, 1))
        with recorder.run(network()) as run:
            run.save(5, loss=1.0)
            with pytest.raises(ValueError, match="steps must rise within a run, got 5 after 5"):
                run.save(5, loss=1.0)
            with pytest.raises(ValueError, match=r"needs the metrics \['loss'\], got \['los'\]"):
                run.save(6, los=1.0)
            run.save(6, loss=1.0)
    with pytest.raises(StoreError, match=r"holds networks of 0.weight .* not of weight \(1, 2\)"):
        CheckpointRecorder(tmp_path / "made", "mine").run(nn.Linear(2, 1))
    with pytest.raises(StoreError, match="made with task = 'mine', now it is 'other'"):
        CheckpointRecorder(tmp_path / "made", "other").run(network())
    with pytest.raises(StoreError, match="made with metrics"):
        CheckpointRecorder(tmp_path / "made", "mine", metrics=(LOSS, Metric("return", "points", False))).run(network())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match="neither empty nor a checkpoint dataset"):
        CheckpointRecorder(tmp_path / "full", "mine").run(network())
    assert [f.name for f in (tmp_path / "full").iterdir() if not f.name.startswith(".")] == ["thesis.tex"]


def test_a_registered_task_gives_metrics_and_layout(tmp_path: Path) -> None:
    recorder = CheckpointRecorder(tmp_path, "moons")
    assert set(recorder.metrics) == {"loss", "error"}
    with pytest.raises(ValueError, match="not a network of this model"):
        recorder.run(network())
    with pytest.raises(StoreError, match="was not recorded"):
        finish_recording(finished_harvest())


def test_recording_a_run_takes_milliseconds(tmp_path: Path) -> None:
    recorder = CheckpointRecorder(tmp_path, "mine")
    record(recorder, 0)
    started = time.process_time()
    for seed in range(100):
        record(recorder, seed, num_checkpoints=20)
    recorder.close()
    assert (time.process_time() - started) / 100 < 0.05
