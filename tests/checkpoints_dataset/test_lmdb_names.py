"""Names, metrics and keys in LMDB data sets: nothing leaves its folder, no run is lost or read twice."""

import json
import os
import re

import numpy as np
import pytest
import torch
from dataset_fixtures import write_synthetic
from malformed import edit, is_one_sentence, limited
from reference_files import write_run

pytest.importorskip("lmdb")

import lmdb

from checkpoints_dataset.lmdb.names import find_place, folder_names
from checkpoints_dataset.lmdb.reading import ImportOptions, import_runs
from checkpoints_dataset.lmdb.runs import LmdbRuns
from checkpoints_dataset.lmdb.writing import export_runs
from checkpoints_dataset.store import CheckpointStore
from g_pt.commands import import_checkpoints

FEW = ImportOptions(num_test_runs=0)


def named_store(folder, names):
    """A dataset whose first runs have these names, as a stranger could set them: a manifest has no checksum."""
    write_synthetic(folder, num_shards=1)

    def rename(manifest):
        for record, name in zip(manifest["runs"], names, strict=False):
            record["metadata"]["name"] = name

    edit(folder / "shard-00000.json", rename)
    return CheckpointStore(folder)


HOSTILE = ["../../escape", "/tmp/escape", "a/b", "a\\b", "..", ".", "", ".hidden", "CON", "nul.txt",
           "a\x1b[31m\nb", "x" * 300, "same", "same", "SAME", "seed_1", "seed_2", "ünï/çödé", "data.mdb "]  # fmt: skip


def test_whatever_a_run_is_called_its_folder_is_in_the_folder(tmp_path):
    store = named_store(tmp_path / "store", HOSTILE)
    (tmp_path / "deep" / "out").mkdir(parents=True)
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    assert export_runs(store, tmp_path / "deep" / "out") == len(store.runs) == 20
    assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before
    made = [path.name for path in (tmp_path / "deep" / "out").iterdir()]
    assert len({name.lower() for name in made}) == 20
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,110}", name) for name in made)
    assert not os.path.exists("/tmp/escape")
    assert export_runs(store, tmp_path / "deep" / "out") == 0  # the same names once more
    back = import_runs(tmp_path / "deep" / "out", tmp_path / "back", FEW)
    assert len(back.runs) == 20
    assert torch.equal(  # the same networks, whatever their order
        back.params(np.arange(80)).sort(dim=0).values, store.params(np.arange(80)).sort(dim=0).values
    )


def test_names_become_plain_and_differ():
    names = ["000000", "seed 1", "seed_1", "../../x", "aux", "..", "X"]
    plain = ["000000", "seed-1", "seed-1-000002", "x", "runaux-000004", "000005", "X-000006"]
    assert folder_names(dict(enumerate(names))) == dict(enumerate(plain))


def test_a_name_with_an_underscore_is_one_run(tmp_path):
    for name in ("seed_1", "seed_2", "7_8"):
        made = write_run(tmp_path / "runs", [name.replace("_", "")])
        (tmp_path / "runs" / name.replace("_", "")).rename(tmp_path / "runs" / name)
        assert made
    write_run(tmp_path / "runs", ["000000", "000001"])
    with LmdbRuns(tmp_path / "runs") as runs:
        assert runs.names == ("000000", "000001", "7_8", "seed_1", "seed_2")
    store = import_runs(tmp_path / "runs", tmp_path / "store", FEW)
    assert [run.metadata["name"] for run in store.runs] == ["000000", "000001", "7_8", "seed_1", "seed_2"]
    assert len(store.params(np.arange(len(store))).unique(dim=0)) == len(store)  # no copies


def test_of_fused_runs_whose_names_have_underscores_none_is_read_twice(tmp_path):
    folder = tmp_path / "runs"
    write_run(folder, ["a", "b"])
    listing = json.loads((folder / "a_b" / "runs.json").read_text())
    (folder / "a_b" / "runs.json").write_text(json.dumps({"x_1": listing["a"], "x_2": listing["b"]}))
    (folder / "a_b").rename(folder / "x_1_x_2")
    with LmdbRuns(folder) as runs:
        assert runs.names == ("x_1", "x_2")
        assert runs.listing("x_1").keys != runs.listing("x_2").keys


def test_two_runs_of_one_name_are_refused(tmp_path, capsys):
    write_run(tmp_path / "runs", ["000001"])
    write_run(tmp_path / "runs", ["000001", "000002"])
    with pytest.raises(SystemExit) as caught:
        import_checkpoints.main(["lmdb", str(tmp_path / "runs"), "--out", str(tmp_path / "store")])
    assert caught.value.code == 1
    assert "has run '000001' twice, in '000001' and '000001_000002'" in capsys.readouterr().err


def test_folders_of_the_user_stay(tmp_path):
    store = named_store(tmp_path / "store", ["mine"])
    out = tmp_path / "out"
    for name in (".unfinished-mine", ".unfinished-thesis", "mine.tmp"):
        (out / name).mkdir(parents=True)
        (out / name / "thesis.tex").touch()
    dead = out / ".mine.g-pt-4000000-0123abcd.tmp"  # of an export that was killed
    dead.mkdir()
    export_runs(store, out)
    assert sorted(str(path.relative_to(out)) for path in out.rglob("thesis.tex")) == [
        ".unfinished-mine/thesis.tex", ".unfinished-thesis/thesis.tex", "mine.tmp/thesis.tex"]  # fmt: skip
    assert not dead.exists()


@pytest.mark.parametrize("done", [True, False])
def test_a_folder_that_holds_another_run_is_refused(tmp_path, done):
    store = named_store(tmp_path / "store", ["mine"])
    write_run(tmp_path / "out", ["mine"])
    if not done:
        (tmp_path / "out" / "mine" / "DONE.txt").unlink()
    with pytest.raises(ValueError, match=r"out/mine exists and does not hold this run: it will not be replaced"):
        export_runs(store, tmp_path / "out")
    assert (tmp_path / "out" / "mine" / "runs.json").exists()


def test_a_full_disk_is_one_sentence_and_leaves_no_half_run(tmp_path, monkeypatch):
    store = named_store(tmp_path / "store", [])

    def full(*arguments, **options):
        raise lmdb.DiskError("mdb_txn_commit: No space left on device")

    monkeypatch.setattr(lmdb, "open", full)
    with pytest.raises(OSError, match=r"cannot be written to: .*No space left on device") as error:
        export_runs(store, tmp_path / "out")
    is_one_sentence(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def listed(change):
    def damage(path):
        listing = json.loads((path / "runs.json").read_text())
        change(listing)
        (path / "runs.json").write_text(json.dumps(listing))

    return damage


def first(listing):
    return next(iter(listing["checkpoints"].values()))


def stored(key, value):
    def damage(path):
        with (
            lmdb.open(str(path), map_size=1 << 26, lock=False) as environment,
            environment.begin(write=True) as writing,
        ):
            writing.put(key.encode(), value)

    return damage


def in_place_of(name, make):
    def damage(path):
        (path / name).unlink()
        make(path / name)

    return damage


ARCH = "000001/ep000_it00000.pt_arch"
BROKEN = {
    "NaN": (listed(lambda e: first(e).update(avg_test_loss=float("nan"))), "avg_test_loss.* a finite number"),
    "infinity": (listed(lambda e: first(e).update(avg_test_err=float("inf"))), "avg_test_err.* a finite number"),
    "10**400": (listed(lambda e: first(e).update(avg_test_err=10**400)), "must be a finite number"),
    "1e39": (listed(lambda e: first(e).update(avg_test_loss=1e39)), "must be a finite number"),
    "negative": (listed(lambda e: first(e).update(avg_test_loss=-1.5)), "'avg_test_loss' is negative, -1.5"),
    "a string": (listed(lambda e: first(e).update(avg_test_loss="2")), "must be a finite number"),
    "a list": (listed(lambda e: e.update(checkpoints=[1])), "checkpoints must be an object"),
    "none": (listed(lambda e: e.update(checkpoints={})), "has no checkpoints"),
    "falling": (listed(lambda e: e.update(checkpoints=dict(reversed(e["checkpoints"].items())))), "order of time"),
    "nested": (lambda p: (p / "runs.json").write_text("[" * 10**6), "cannot be read"),
    "a pipe": (in_place_of("runs.json", os.mkfifo), "a pipe"),
    "a device": (in_place_of("runs.json", lambda p: p.symlink_to("/dev/zero")), "a device"),
    "data a pipe": (in_place_of("data.mdb", os.mkfifo), "no data.mdb"),
    "no numbers": (stored("000001/ep000_it00000.pt", b""), "must have 7960 float32"),
    "key too long": (listed(lambda e: e["checkpoints"].update({"k" * 600: first(e)})), "does not have it"),
    "no text": (listed(lambda e: e["checkpoints"].update({"\ud800": first(e)})), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_run_with_wrong_entries_is_left_out_with_the_reason(tmp_path, name):
    for run in ("000000", "000001"):
        write_run(tmp_path / "runs", [run])
    damage, said = BROKEN[name]
    damage(tmp_path / "runs" / "000001")
    with limited():
        store = import_runs(tmp_path / "runs", tmp_path / "store", FEW)
    assert [run.metadata["name"] for run in store.runs] == ["000000"]
    assert re.search(said, store.left_out[1])
    assert len(store.left_out[1]) < 500
    assert "\n" not in store.left_out[1]


@pytest.mark.parametrize("sizes", [[np.inf], [np.nan], [1e30], [-1], [7960.5], [7959], []])
def test_sizes_of_tensors_that_are_none_are_named(tmp_path, sizes):
    write_run(tmp_path / "runs", ["000000"])
    stored("000000/ep000_it00000.pt_arch", np.array(sizes, dtype=np.float32).tobytes())(tmp_path / "runs" / "000000")
    with pytest.raises(ValueError, match=r"none of the 1 runs .* _arch (must list sizes|lists \d+ parameters)"):
        import_runs(tmp_path / "runs", tmp_path / "store", FEW)


def test_vectors_without_numbers_are_named(tmp_path):
    write_run(tmp_path / "runs", ["000000"], num_params=0, sizes=(1,))
    with pytest.raises(ValueError, match="has no parameters"):
        import_runs(tmp_path / "runs", tmp_path / "store", FEW)


def test_what_a_run_says_of_itself_never_changes_its_name(tmp_path):
    write_run(tmp_path / "runs", ["000000"])
    listed(lambda e: e["metadata"].update(name="../../x", keys="abc", seed=3))(tmp_path / "runs" / "000000")
    store = import_runs(tmp_path / "runs", tmp_path / "store", FEW)
    assert store.runs[0].metadata == {"name": "000000", "seed": 3, "max_parameter_val": 1.0}


def test_steps_that_no_counter_holds_are_other_keys():
    assert find_place("a/it99999.pt", "a").iteration == 99999
    assert find_place("a/it99999999999999999999.pt", "a") is None
    assert find_place("a/ep9999999999_it00001.pt", "a") is None
