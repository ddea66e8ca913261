"""LMDB data sets of the reference: read, filtered, split, converted and written back; what is broken is named."""

import json
import os

import numpy as np
import pytest
import torch
from dataset_fixtures import file_hashes
from reference_files import CARTPOLE, needs_reference_files, reference_files, write_run

pytest.importorskip("lmdb")

from checkpoints_dataset.lmdb.reading import ImportOptions, import_runs, reference_keys
from checkpoints_dataset.lmdb.runs import BrokenRunError, LmdbRuns
from checkpoints_dataset.lmdb.writing import export_runs
from checkpoints_dataset.store import CheckpointStore
from g_pt.commands import import_checkpoints

SMALL = ImportOptions(num_test_runs=1, shard_bytes=200_000)  # two runs a shard


def rows_of(record):
    return np.arange(record.first_row, record.first_row + record.num_checkpoints)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def source(tmp_path):
    """Runs 000000 to 000004, the middle two fused; returns the folder and all vectors."""
    folder, vectors = tmp_path / "mnist", {}
    for names in (["000000"], ["000001"], ["000002", "000003"], ["000004"]):
        vectors |= write_run(folder, names)
    return folder, vectors


def check_equal(store, source):
    with LmdbRuns(source) as runs:
        for record in store.runs:
            listing = runs.listing(record.metadata["name"])
            got, wanted = store.params(rows_of(record)), runs.params(listing)
            assert torch.equal(got.view(torch.int32), wanted.view(torch.int32))
            assert reference_keys(store, record) == list(listing.keys)
            assert store.metrics["loss"][rows_of(record)].tolist() == list(listing.metrics["avg_test_loss"])
            assert store.metrics["train_error"][rows_of(record)].tolist() == list(listing.metrics["avg_train_err"])


def test_a_conversion_keeps_everything(source, tmp_path):
    folder, vectors = source
    before = contents(folder)
    store = import_runs(folder, tmp_path / "store", SMALL)
    assert (store.header.task, store.header.num_shards, len(store.runs), len(store)) == ("reference-mnist", 3, 5, 15)
    check_equal(store, folder)
    for record in store.runs:
        for key, row in zip(reference_keys(store, record), store.params(rows_of(record)), strict=True):
            assert row.numpy().tobytes() == vectors[key].tobytes()
        assert store.step[rows_of(record)].tolist() == [0, 19, 470]  # 468 steps an epoch
    assert [run.metadata["name"] for run in store.runs_of("test")] == ["000004"]
    assert [run.metadata["name"] for run in store.runs_of("train")] == ["000000", "000001", "000002", "000003"]
    assert store.runs_of("validation") == []
    assert contents(folder) == before


def test_one_descriptor_at_a_time(source):
    folder, _ = source
    with LmdbRuns(folder) as runs:
        counts = []
        for name in runs.names:
            runs.params(runs.listing(name))
            counts.append(len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0)
        assert len(set(counts)) == 1


def test_an_interrupted_conversion_continues_with_the_same_bytes(source, tmp_path):
    folder, _ = source
    import_runs(folder, tmp_path / "whole", SMALL)

    def stop(_):
        nonlocal done
        done += 1
        if done == 4:
            raise KeyboardInterrupt

    done = 0
    with pytest.raises(KeyboardInterrupt):
        import_runs(folder, tmp_path / "store", SMALL, progress=stop)
    assert len(list((tmp_path / "store").glob("shard-*.json"))) == 1
    import_runs(folder, tmp_path / "store", SMALL)
    assert file_hashes(tmp_path / "store") == file_hashes(tmp_path / "whole")


def truncate(path):
    data = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(data[: len(data) // 2])


def empty(path):
    (path / "data.mdb").write_bytes(b"")


def garble(path):
    (path / "data.mdb").write_bytes(b"\x07" * 20_000)


def listed_but_missing(path):
    listing = json.loads((path / "runs.json").read_text())
    values = next(iter(listing["checkpoints"].values()))
    listing["checkpoints"][f"{path.name}/ep009_it00001.pt"] = values
    (path / "runs.json").write_text(json.dumps(listing))


def without_a_metric(path):
    listing = json.loads((path / "runs.json").read_text())
    for values in listing["checkpoints"].values():
        del values["avg_test_err"]
    (path / "runs.json").write_text(json.dumps(listing))


BROKEN = {
    "no DONE.txt": lambda path: (path / "DONE.txt").unlink(),
    "no runs.json": lambda path: (path / "runs.json").unlink(),
    "runs.json cannot be read": lambda path: (path / "runs.json").write_text("{"),
    "runs.json has no checkpoints": lambda path: (path / "runs.json").write_text("{}"),
    "no data.mdb": lambda path: (path / "data.mdb").unlink(),
    "truncated": truncate,
    "damaged": garble,
    "data.mdb is ": empty,
    "does not have it": listed_but_missing,
    "lack the metrics": without_a_metric,
}


@pytest.mark.parametrize("reason", BROKEN)
@pytest.mark.parametrize("place", [0, 1])
def test_a_broken_run_is_left_out_and_named(tmp_path, reason, place):
    folder = tmp_path / "mnist"
    if reason == "lack the metrics" and place == 0:
        pytest.skip("the first run says which metrics there are")
    for name in ("000000", "000001", "000002"):
        write_run(folder, [name])
    broken = folder / f"00000{place}"
    BROKEN[reason](broken)
    before = contents(folder)
    store = import_runs(folder, tmp_path / "store", SMALL)
    assert [run.metadata["name"] for run in store.runs] == [
        n for n in ("000000", "000001", "000002") if n != broken.name
    ]
    assert list(store.left_out) == [place]
    assert f"run {broken.name}: " in store.left_out[place]
    assert reason in store.left_out[place]
    check_equal(store, folder)
    assert contents(folder) == before


def test_runs_that_the_reference_filters_are_left_out(tmp_path):
    folder = tmp_path / "mnist"
    write_run(folder, ["000000"])
    write_run(folder, ["000001"], scale=10.0)
    write_run(folder, ["000002"], scale=np.nan)
    write_run(folder, ["000003"], num_params=100, sizes=(100,))
    store = import_runs(folder, tmp_path / "store", ImportOptions(num_test_runs=0, shard_bytes=1))
    assert [run.run for run in store.runs] == [0]
    assert "largest parameter" in store.left_out[1]
    assert "not finite" in store.left_out[2]
    assert "must have 7960 float32" in store.left_out[3]


def test_policies_and_networks_of_no_task(tmp_path):
    write_run(tmp_path / "rl", ["000000"], num_params=1250, sizes=CARTPOLE, rl=True)
    store = import_runs(tmp_path / "rl", tmp_path / "a", ImportOptions())
    assert (store.header.task, list(store.metrics)) == ("reference-cartpole", ["return"])
    assert store.step.tolist() == [0, 7]
    assert reference_keys(store, store.runs[0]) == ["000000/it00000.pt", "000000/it00007.pt"]
    keys = ["a.pt", "b.pt", "c.pt"]
    write_run(tmp_path / "own", ["000000"], num_params=30, sizes=(20, 10), keys=keys)
    store = import_runs(tmp_path / "own", tmp_path / "b", ImportOptions())
    assert store.header.layout.to_json() == [["tensor0", [20]], ["tensor1", [10]]]
    assert reference_keys(store, store.runs[0]) == [f"000000/{key}" for key in keys]
    assert store.step.tolist() == [0, 1, 2]


def test_the_reader_names_what_is_wrong(tmp_path, source):
    folder, _ = source
    with pytest.raises(ValueError, match="there is no folder"):
        LmdbRuns(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no folders of runs"):
        LmdbRuns(tmp_path / "empty")
    with LmdbRuns(folder) as runs:
        assert runs.split(2) == (("000000", "000001", "000002"), ("000003", "000004"))
        with pytest.raises(ValueError, match="num_test_runs"):
            runs.split(5)
        with pytest.raises(BrokenRunError, match=r"run 000000: .*must have 5 float32"):
            runs.params(runs.listing("000000"), 5)
    for run in folder.iterdir():
        (run / "DONE.txt").unlink()
    with pytest.raises(ValueError, match=r"none of the 5 runs .* run 000000: no DONE.txt"):
        import_runs(folder, tmp_path / "store")


@pytest.mark.parametrize("rl", [False, True])
def test_export_gives_the_same_records_back(tmp_path, rl):
    options = {"num_params": 1250, "sizes": CARTPOLE, "rl": True} if rl else {}
    for name in ("000000", "000001"):
        write_run(tmp_path / "a", [name], **options)
    store = import_runs(tmp_path / "a", tmp_path / "store", ImportOptions())
    assert export_runs(store, tmp_path / "b") == 2
    assert export_runs(store, tmp_path / "b") == 0  # both are there
    with LmdbRuns(tmp_path / "a") as one, LmdbRuns(tmp_path / "b") as two:
        assert one.names == two.names
        for name in one.names:
            a, b = one.listing(name), two.listing(name)
            assert (a.keys, a.metrics) == (b.keys, b.metrics)
            assert torch.equal(one.params(a), two.params(b))
            assert one.tensor_sizes(a, store.header.layout.num_params) == two.tensor_sizes(
                b, store.header.layout.num_params
            )
    best = json.loads((tmp_path / "b" / "000000" / "runs.json").read_text())["metadata"]
    assert ("optimal_train_ret" if rl else "optimal_test_loss") in best


def test_the_command_counts_what_it_leaves_out(tmp_path, capsys):
    for name in ("000000", "000001", "000002"):
        write_run(tmp_path / "mnist", [name])
    (tmp_path / "mnist" / "000001" / "DONE.txt").unlink()
    import_checkpoints.main(["lmdb", str(tmp_path / "mnist"), "--out", str(tmp_path / "store"), "--num-test-runs", "1"])
    shown = capsys.readouterr()
    assert "6 checkpoints of 2 runs, 1 runs left out" in shown.out
    assert "1 with no DONE.txt" in shown.err
    assert "run 000001" in shown.err
    import_checkpoints.main(["export-lmdb", str(tmp_path / "store"), "--out", str(tmp_path / "back")])
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["000000", "000002"]
    with pytest.raises(SystemExit):
        import_checkpoints.main(["lmdb", str(tmp_path / "nothing"), "--out", str(tmp_path / "other")])
    assert "there is no folder" in capsys.readouterr().err


@needs_reference_files
@pytest.mark.parametrize(("name", "num_runs"), [("lmdb_mnist", 3), ("lmdb_mnist_fused", 2)])
def test_files_of_the_reference_convert_exactly(tmp_path, name, num_runs):
    folder = reference_files() / name
    store = import_runs(folder, tmp_path / "store", SMALL)
    assert (len(store.runs), store.left_out) == (num_runs, {})
    check_equal(store, folder)
    CheckpointStore(tmp_path / "store", verify=True)
