"""Datasets that are damaged or hostile although their checksums fit: one sentence, in little memory and time."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from dataset_fixtures import write_synthetic
from malformed import edit, is_one_sentence, limited
from safetensors.torch import load_file, save_file

from checkpoints_dataset.format import StoreError
from checkpoints_dataset.store import CheckpointStore
from g_pt.files.atomic import fingerprint


def run(manifest, number=0):
    return manifest["runs"][number]


# a manifest has no checksum of its own -> what is done to it, and words of the error
MANIFESTS = {
    "no size": (lambda m: m["files"]["shard-00000.arrow"].pop("bytes"), r"'shard-00000.arrow' has no entry 'bytes'"),
    "no first row": (lambda m: run(m).pop("first_row"), r"runs\[0\] has no entry 'first_row'"),
    "more entries": (lambda m: run(m).update(surplus=1), r"runs\[0\] has an unknown entry 'surplus'"),
    "left_out a list": (lambda m: m.update(left_out=[]), "left_out must be an object, got"),
    "left_out a word": (lambda m: m.update(left_out={"x": "why"}), "left_out must list runs by their numbers"),
    "left_out and kept": (lambda m: m.update(left_out={"3": "why"}), "lists runs that do not fit"),
    "a count as a string": (lambda m: run(m).update(num_checkpoints="4"), "num_checkpoints must be a whole number"),
    "a count as a float": (lambda m: run(m).update(num_checkpoints=4.0), "num_checkpoints must be a whole number"),
    "a count of none": (lambda m: run(m).update(num_checkpoints=None), "num_checkpoints must be a whole number"),
    "a count of 0": (lambda m: run(m).update(num_checkpoints=0), "num_checkpoints must be 1 or more"),
    "a huge count": (lambda m: run(m).update(num_checkpoints=10**30), "num_checkpoints must be 1 or more"),
    "400 million": (lambda m: run(m).update(num_checkpoints=4 * 10**8), "runs of 400,000,076 checkpoints, but"),
    "runs a number": (lambda m: m.update(runs=7), "runs must be a list"),
    "a run that is none": (lambda m: m["runs"].insert(0, 7), r"runs\[0\] must be an object"),
    "a run twice": (lambda m: run(m, 1).update(run=0), "lists runs that do not fit"),
    "another run": (lambda m: run(m, 1).update(run=77), "rows of other runs than"),
    "rows of another run": (lambda m: run(m, 1).update(first_row=5), "do not fit the rows"),
    "a list": (lambda m: None, "must be an object of"),
}


def test_a_manifest_with_wrong_entries_is_named(tmp_path, subtests):
    for number, (name, (change, said)) in enumerate(MANIFESTS.items()):
        with subtests.test(name):
            folder = tmp_path / str(number)
            write_synthetic(folder)
            file = folder / "shard-00000.json"
            manifest = json.loads(file.read_text())
            change(manifest)
            file.write_text(json.dumps([manifest] if name == "a list" else manifest))
            with limited(), pytest.raises(StoreError, match=rf"shard-00000.*{said}") as error:
                CheckpointStore(folder)
            is_one_sentence(error.value)


LAYOUT_ENTRIES = [["fc1.weight", [2, 2]], ["fc1.bias", [2]]]
LOSS = {"name": "loss", "unit": "nats", "minimize": True, "transform": "identity"}
HEADERS = {
    "source a list": ({"source": [1]}, "source must be an object"),
    "held_out floats": ({"held_out": {"validation": 1.5, "test": 2}}, "held_out: 'validation' must be a whole number"),
    "held_out a list": ({"held_out": [1, 2]}, "held_out must be an object"),
    "held_out negative": ({"held_out": {"validation": -1, "test": 2}}, "must be 0 or more, got -1"),
    "layout negative": ({"layout": [["a", [-6]]], "num_params": 6}, "layout: tensors.* must be 1 to"),
    "layout huge": ({"layout": [["a", [10**30]]]}, "layout: tensors.* must be 1 to"),
    "layout of floats": ({"layout": [["a", [6.0]]]}, "must be a whole number, got 6.0"),
    "layout too large": ({"layout": [["a", [2**30, 2**30]]], "num_params": 2**60}, "at most 1099511627776 parameters"),
    "layout empty": ({"layout": []}, "tensors must have 1 to"),
    "layout a table": ({"layout": {"a": [6]}}, "tensors must be a list"),
    "one parameter more": ({"layout": [*LAYOUT_ENTRIES, ["b", [1]]], "num_params": 7}, "must be rows of 7 F32"),
    "another num_params": ({"num_params": 7}, "must have the num_params of its layout, 6, got 7"),
    "a metric that is not measured": ({"metrics": {"x": {**LOSS, "name": "x"}}}, "must have one column 'x'"),
    "a metric under another name": ({"metrics": {"x": LOSS}}, "listed by its name"),
    "a metric named run": ({"metrics": {"run": {**LOSS, "name": "run"}}}, "none of"),
    "minimize a string": ({"metrics": {"loss": {**LOSS, "minimize": "no"}}}, "minimize must be true or false"),
    "scale of 1e300": ({"metrics": {"loss": {**LOSS, "scale": 1e300}}}, "scale must be a finite number"),
    "scale of 0": ({"metrics": {"loss": {**LOSS, "scale": 0}}}, "scale must be a positive number"),
    "no metric of this kind": ({"metrics": {"loss": {**LOSS, "transform": "sqrt"}}}, "transform must be one of"),
    "task a list": ({"task": ["digits"]}, "task must be a string"),
    "task with a line break": ({"task": "digits\nand more"}, "must have no control characters"),
    "shards a string": ({"num_shards": "3"}, "num_shards must be a whole number"),
    "10**12 shards": ({"num_shards": 10**12}, "num_shards must be 1 to"),
    "an entry more": ({"surplus": 1}, "has an unknown entry 'surplus'"),
}


def test_a_header_with_wrong_entries_is_named(tmp_path, subtests):
    for number, (name, (change, said)) in enumerate(HEADERS.items()):
        with subtests.test(name):
            folder = tmp_path / str(number)
            write_synthetic(folder)
            edit(folder / "dataset.json", lambda header, change=change: header.update(change))
            with limited(), pytest.raises(StoreError, match=said) as error:
                CheckpointStore(folder)
            is_one_sentence(error.value)


def replace_file(folder, suffix, write):
    """Write a file of the first shard anew, with the manifest's entry of it."""
    path = folder / f"shard-00000{suffix}"
    write(path)
    edit(folder / "shard-00000.json", lambda manifest: manifest["files"].update({path.name: fingerprint(path)}))


def changed_params(change):
    def write(path):
        save_file({"params": change(load_file(path)["params"]).contiguous()}, path)

    return write


PARAMS = {
    "one row more": (lambda p: torch.cat([p, p[:1]]), "runs of 80 checkpoints, but the shard has 81 rows"),
    "one row less": (lambda p: p[1:], "runs of 80 checkpoints, but the shard has 79 rows"),
    "one column less": (lambda p: p[:, 1:], "must be rows of 6 F32"),
    "three axes": (lambda p: p[:, None], "must be rows of 6 F32"),
    "one axis": (lambda p: p[:, 0], "must be rows of 6 F32"),
    "whole numbers": (lambda p: p.long(), "must be rows of 6 F32.* of I64"),
    "truth values": (lambda p: p > 0, "must be rows of 6 F32.* of BOOL"),
    "half of the digits": (lambda p: p.half(), "must be rows of 6 F32.* of F16"),
}


@pytest.mark.parametrize("name", PARAMS)
def test_rows_that_are_not_those_of_the_header_are_named(tmp_path, name):
    write_synthetic(tmp_path)
    change, said = PARAMS[name]
    replace_file(tmp_path, ".safetensors", changed_params(change))
    with pytest.raises(StoreError, match=said) as error:
        CheckpointStore(tmp_path)
    is_one_sentence(error.value)


def test_a_further_array_of_another_length_is_named(tmp_path):
    write_synthetic(tmp_path)
    replace_file(tmp_path, ".safetensors", lambda p: save_file({**load_file(p), "mask": torch.zeros(79)}, p))
    with pytest.raises(StoreError, match=r"array 'mask' must have 80 rows, got \(79,\)"):
        CheckpointStore(tmp_path)


def changed_table(change, **options):
    def write(path):
        with pa.memory_map(str(path)) as source:
            table = change(pa.ipc.open_file(source).read_all())
        with pa.ipc.new_file(path.with_suffix(".new"), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as sink:
            sink.write_table(table)
        path.with_suffix(".new").rename(path)

    return write


def column(name, values):
    def change(table):
        return table.set_column(table.column_names.index(name), name, values(table[name].combine_chunks()))

    return changed_table(change)


def but_first(value):
    return lambda column: pa.array([value, *column.to_pylist()[1:]], column.type)


def repeated(table):
    """300 million rows, which compress to little."""
    return pa.table({n: pa.array(np.broadcast_to(np.int64(0), 30_000_000)) for n in table.column_names})


TABLES = {
    "compressed by zstd": (changed_table(lambda t: t, compression="zstd"), "is compressed"),
    "compressed by lz4": (changed_table(lambda t: t, compression="lz4"), "is compressed"),
    "many rows, compressed": (changed_table(repeated, compression="zstd"), "is compressed"),
    "a column missing": (changed_table(lambda t: t.drop_columns(["loss"])), "must have one column 'loss'"),
    "a column twice": (changed_table(lambda t: t.append_column("loss", t["loss"])), "must have one column 'loss'"),
    "steps of floats": (column("step", lambda c: c.cast(pa.float64())), "'step' must be of type int64, got double"),
    "losses of strings": (column("loss", lambda c: c.cast(pa.string())), "'loss' must be of type float, got string"),
    "a hole": (column("loss", but_first(None)), "has empty cells in column 'loss'"),
    "a hole among the runs": (column("run", but_first(None)), "has empty cells in column 'run'"),
    "NaN": (column("loss", but_first(float("nan"))), "'loss' is nan in run 0: leave diverged runs out"),
    "infinity": (column("return", but_first(float("-inf"))), "'return' is -inf in run 0"),
    "falling steps": (column("step", lambda c: pa.array(c.to_numpy()[::-1])), "do not rise within a run"),
    "equal steps": (column("step", lambda c: pa.array(0 * c.to_numpy())), "do not rise within a run"),
    "negative steps": (column("step", lambda c: pa.array(c.to_numpy() - 1)), "negative"),
    "one row less": (changed_table(lambda t: t.slice(1)), "rows of other runs"),
    "no Arrow file": (lambda p: p.write_bytes(b"PAR1" * 100), "no Arrow file"),
    "half of it": (lambda p: p.write_bytes(p.read_bytes()[:600]), "damaged"),
    "nothing": (lambda p: p.write_bytes(b""), "no Arrow file"),
    "noise": (lambda p: p.write_bytes(b"ARROW1\0\0" + bytes(range(256)) * 8), "damaged"),
}


def test_a_table_that_is_no_table_of_the_shard_is_named(tmp_path, subtests):
    for number, (name, (write, said)) in enumerate(TABLES.items()):
        with subtests.test(name):
            folder = tmp_path / str(number)
            write_synthetic(folder)
            replace_file(folder, ".arrow", write)
            with limited(), pytest.raises((StoreError, OSError), match=said) as error:
                CheckpointStore(folder)
            is_one_sentence(error.value)


@pytest.mark.parametrize(("transform", "refused"), [("log", True), ("log1p", True), ("identity", False)])
def test_a_negative_value_of_a_metric_that_is_shown_as_its_logarithm_is_refused(tmp_path, transform, refused):
    write_synthetic(tmp_path)
    edit(tmp_path / "dataset.json", lambda header: header["metrics"]["loss"].update(transform=transform))
    replace_file(tmp_path, ".arrow", column("loss", but_first(-1.5)))
    if refused:
        with pytest.raises(StoreError, match=f"'loss' is -1.5 in run 0, and a metric that is shown as its {transform}"):
            CheckpointStore(tmp_path)
    else:
        assert CheckpointStore(tmp_path).metrics["loss"][0] == -1.5


def test_a_run_in_two_shards_is_refused(tmp_path):
    write_synthetic(tmp_path)
    for suffix in (".safetensors", ".arrow", ".json"):
        content = (tmp_path / f"shard-00000{suffix}").read_bytes().replace(b"shard-00000.", b"shard-00001.")
        (tmp_path / f"shard-00001{suffix}").write_bytes(content)
    with pytest.raises(StoreError, match="a run in two of its shards"):
        CheckpointStore(tmp_path)


def test_a_loss_of_0_is_said_where_its_logarithm_is_shown(tmp_path):
    write_synthetic(tmp_path)
    edit(tmp_path / "dataset.json", lambda header: header["metrics"]["loss"].update(transform="log"))
    replace_file(tmp_path, ".arrow", column("loss", but_first(0.0)))
    with pytest.warns(UserWarning, match=r"models see the log of 'loss', and values below 1e-06 as that"):
        CheckpointStore(tmp_path)
