"""State dicts in a folder and a table of their metrics become a dataset."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from checkpoints_dataset import CheckpointStore, PairSampler
from checkpoints_dataset.folder_import import import_folder
from g_pt.commands import import_checkpoints as command
from g_pt.tasks import get_task


@pytest.fixture(scope="module")
def moons():
    return get_task("moons")


@pytest.fixture
def folder(tmp_path: Path, moons) -> Path:
    """Three runs of different lengths, in both kinds of files, the table in no order."""
    made = tmp_path / "mine"
    lines = []
    for run in range(3):
        for step in range(2 + run):
            params = moons.init(1, torch.Generator().manual_seed(10 * run + step))[0]
            state = {name: tensor.clone() for name, tensor in moons.layout.unflatten(params).items()}
            state["counter"] = torch.tensor(step)
            name = f"run{run}/{step}." + ("pt" if run % 2 else "safetensors")
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (torch.save if run % 2 else save_file)(state, made / name)
            lines.append(f"{name},seed {run},{100 * step},{1 / (1 + step)},{50 - run},note")
    table = made / "metrics.csv"
    table.write_text("\n".join(["file, run,step,loss,error,comment", lines[0], *reversed(lines[1:])]) + "\n")
    return made


def test_files_and_table_become_rows(folder, tmp_path, moons):
    store = import_folder(folder, folder / "metrics.csv", tmp_path / "out", moons)
    assert [(r.run, r.num_checkpoints, r.metadata) for r in store.runs] == [
        (0, 2, {"name": "seed 0"}), (1, 4, {"name": "seed 2"}), (2, 3, {"name": "seed 1"})]  # fmt: skip
    assert store.step.tolist() == [0, 100, 0, 100, 200, 300, 0, 100, 200]
    seeds = [0, 1, 20, 21, 22, 23, 10, 11, 12]
    expected = torch.cat([moons.init(1, torch.Generator().manual_seed(seed)) for seed in seeds])
    assert torch.equal(store.params([*range(9)]), expected)
    assert store.metrics["loss"].tolist() == pytest.approx([1, 0.5, 1, 0.5, 1 / 3, 0.25, 1, 0.5, 1 / 3])
    assert store.metrics["error"].tolist() == [50] * 2 + [48] * 4 + [49] * 3
    store.check_task(moons)
    PairSampler(store, "loss", batch_size=4, seed=0).batch(0)
    with pytest.raises(ValueError, match=r"no runs in its validation split: 3 runs are kept.* 20 are the fewest"):
        PairSampler(store, "loss", split="validation", batch_size=4, seed=0)


def test_only_some_metrics_of_the_task(folder, tmp_path, moons):
    table = folder / "metrics.csv"
    table.write_text(table.read_text().replace("error", "accuracy"))
    with pytest.raises(ValueError, match=r"must have the columns .*\['error'\] are missing, it has .*'accuracy'"):
        import_folder(folder, table, tmp_path / "out", moons)
    assert not (tmp_path / "out").exists()
    store = import_folder(folder, table, tmp_path / "out", moons, metrics=["loss"])
    assert set(store.metrics) == {"loss"}


def test_an_interrupted_import_continues(folder, tmp_path, moons, monkeypatch):
    from checkpoints_dataset import folder_import

    monkeypatch.setattr(folder_import, "SHARD_BYTES", 1)
    whole = import_folder(folder, folder / "metrics.csv", tmp_path / "whole", moons)
    assert whole.header.num_shards == 3
    lost = folder / "run1" / "1.pt"
    content = lost.read_bytes()
    lost.write_bytes(content[:50])
    with pytest.raises(ValueError, match=r"run1/1.pt cannot be read as tensors"):
        import_folder(folder, folder / "metrics.csv", tmp_path / "out", moons)
    lost.write_bytes(content)
    done = (tmp_path / "out" / "shard-00000.json").stat().st_mtime_ns
    import_folder(folder, folder / "metrics.csv", tmp_path / "out", moons)
    assert (tmp_path / "out" / "shard-00000.json").stat().st_mtime_ns == done
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def replace_line(old: str, new: str):
    def change(folder: Path) -> None:
        table = folder / "metrics.csv"
        assert old in table.read_text()
        table.write_text(table.read_text().replace(old, new))

    return change


def save_changed(**tensors: torch.Tensor):
    def change(folder: Path) -> None:
        moons = get_task("moons")
        state = moons.layout.unflatten(moons.init(1, torch.Generator())[0])
        save_file(
            {n.replace("/", "."): t.clone() for n, t in {**state, **tensors}.items()}, folder / "run0/1.safetensors"
        )

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "run0/1.safetensors").unlink(), "metrics.csv, line 10: there is no file .*run0/1.safetensors"),
        (lambda f: (f / "metrics.csv").unlink(), "there is no table"),
        (replace_line("file, run,step", "path,run,step"), r"\['file'\] are missing, it has \['path', 'run'"),
        (replace_line("seed 0,100,0.5", "seed 0,100,fine"), "line 10: loss must be a number, got 'fine'"),
        (replace_line("seed 0,100,0.5", "seed 0,100,nan"), "line 10: loss must be finite, got 'nan'; leave diverged"),
        (replace_line("seed 0,100,0.5", "seed 0,100"), "line 10: "),
        (replace_line("seed 0,100", "seed 0,1.5"), "line 10: step must be a whole number from 0 on, got '1.5'"),
        (replace_line("seed 0,100", ",100"), "line 10: run is empty"),
        (replace_line("seed 0,100", "seed 0,0"), "run 'seed 0' has step 0 twice, in lines 2 and 10"),
        (save_changed(**{"fc2.bias": torch.zeros(3)}), r"1.safetensors: tensor 'fc2.bias' must have shape \(16,\)"),
        (save_changed(more=torch.zeros(3)), r"1.safetensors: tensors \['more'\] are not part"),
        (save_changed(**{"fc1.bias": torch.full((16,), torch.nan)}), "tensor 'fc1.bias' holds NaN or infinity"),
        (lambda f: (f / "metrics.csv").write_text("file,run,step,loss,error\n"), "names no files"),
        (lambda f: (f / "metrics.csv").write_bytes(b"\xff\xfe\x00"), "is not text in UTF-8"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(folder, tmp_path, moons, change, said):
    change(folder)
    with pytest.raises((ValueError, OSError), match=said):
        import_folder(folder, folder / "metrics.csv", tmp_path / "out", moons)


def test_a_pickle_with_code_is_refused(folder, tmp_path, moons):
    torch.save({"fc1.weight": print}, folder / "run1" / "0.pt")
    with pytest.raises(ValueError, match="cannot be read as tensors without running code"):
        import_folder(folder, folder / "metrics.csv", tmp_path / "out", moons)


def test_too_large_for_half_precision(folder, tmp_path, moons):
    state = moons.layout.unflatten(torch.full((moons.layout.num_params,), 1e5))
    save_file({n: t.clone() for n, t in state.items()}, folder / "run0" / "1.safetensors")
    with pytest.raises(ValueError, match="too large for float16; use float32"):
        import_folder(folder, folder / "metrics.csv", tmp_path / "out", moons, dtype="float16")
    with pytest.raises(ValueError, match="dtype must be float32 or float16"):
        import_folder(folder, folder / "metrics.csv", tmp_path / "out", moons, dtype="int8")


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["folder", "mine", "--csv", "mine/metrics.csv", "--task", "moons", "--out", "made"]
    command.main([*flags, "--json"])
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {
        "folder": "made", "task": "moons", "metrics": ["loss", "error"], "checkpoints": 9, "runs": 3,
        "splits": {"train": 3, "validation": 0, "test": 0}, "left_out": {},
    }  # fmt: skip
    assert "no runs for validation and test: of every 20 runs one is for validation" in printed.err
    assert len(CheckpointStore("made").runs) == 3
    (tmp_path / "own.yaml").write_text("csv: mine/metrics.csv\ntask: moons\nout: elsewhere\nmetrics: [loss]\n")
    command.main(["folder", "mine", "--config", "own.yaml", "--out", "there"])
    assert "there: 9 checkpoints of 3 runs of task moons" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        command.main(["folder", "mine", "--csv", "lost.csv", "--task", "moons", "--out", "made2"])
    assert caught.value.code == 1
    assert capsys.readouterr().err == "gpt-import: there is no table lost.csv\n"
