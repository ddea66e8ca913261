"""Networks and data sets that are damaged or hostile: one sentence, no code run, no absurd memory, no hang."""

import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_fixtures import write_synthetic
from malformed import TENSOR_FILES, Payload, edit, is_one_sentence, limited
from safetensors.torch import load_file, save_file

from checkpoints_dataset.exchange import export_parquet, import_parquet
from checkpoints_dataset.store import CheckpointStore
from checkpoints_dataset.writer import fingerprint
from g_pt.commands import sample
from g_pt.networks.network_files import read_network

NETWORKS: dict[str, tuple[Callable[[Path], object], str]] = {
    **TENSOR_FILES,
    "NaN": (lambda p: save_file({k: t.log() for k, t in load_file(p).items() if k != "twin"}, p), "NaN"),
    "another architecture": (lambda p: save_file({"fc1.weight": torch.zeros(3, 3)}, p), "fc1.weight"),
}


def test_a_malformed_network_is_one_sentence(digits, tmp_path, subtests):
    tensors = digits.layout.unflatten(digits.init(1, torch.Generator().manual_seed(0))[0])
    for number, (name, (damage, word)) in enumerate(NETWORKS.items()):
        path = tmp_path / f"{number}.safetensors"
        # a twin of the first bias gives the overlap something to overlap with
        save_file({**{k: t.clone() for k, t in tensors.items()}, "twin": tensors["fc1.bias"].clone()}, path)
        damage(path)
        with subtests.test(name), limited():
            with pytest.raises((ValueError, OSError)) as error:
                read_network(path, digits.layout)
            assert word in is_one_sentence(error.value)


def stretched(path: Path) -> None:
    """Four bytes that claim to be 10**12 numbers."""
    torch.save({"fc1.weight": torch.zeros(1).expand(10**12)}, path)


PT_FILES = {
    "code": lambda p: p.write_bytes(pickle.dumps(Payload())),
    "empty": lambda p: p.write_bytes(b""),
    "stretched": stretched,
}


def test_a_malformed_pt_file_is_one_sentence(digits, tmp_path, subtests):
    for name, damage in PT_FILES.items():
        path = tmp_path / f"{name}.pt"
        damage(path)
        with subtests.test(name), limited():
            with pytest.raises(ValueError, match=r"\S") as error:
                read_network(path, digits.layout)
            is_one_sentence(error.value)


def test_the_command_says_it_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("start.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with limited(), pytest.raises(SystemExit):
        sample.main(["--prompt-loss", "0.5", "--start", "start.safetensors"])
    error = capsys.readouterr().err
    assert "header would have" in error
    assert error.count("\n") == 1


def parquet(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change a table and the listing of its file, as one who means harm would."""

    def damage(folder: Path) -> None:
        import pyarrow.parquet as pq

        path = folder / "train" / "shard-00000.parquet"
        table = change(pq.read_table(path))
        pq.write_table(table, path)
        listed = {"rows": len(table), **fingerprint(path)}
        edit(folder / "shard-00000.json", lambda m: m["files"].update({"train/shard-00000.parquet": listed}))

    return damage


def narrower(table: Any) -> Any:
    import pyarrow as pa

    short = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(5 * len(table), dtype=np.float32)), 5)
    return table.set_column(table.column_names.index("params"), "params", short)


def swap(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def manifest(**entries: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "shard-00000.json", lambda m: m.update(entries))


def header(**entries: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "dataset.json", lambda h: h.update(entries))


PASSWORDS = {"rows": 80, "bytes": 100, "sha256": "0" * 64}


def many_rows(folder: Path) -> None:
    """16 million equal rows, which are packed to almost nothing, and a manifest that says so."""
    parquet(lambda table: table.take(np.zeros(16_000_000, dtype=np.int64)))(folder)

    def consistent(entries: dict[str, Any]) -> None:
        entries["runs"] = [{"run": 0, "first_row": 0, "num_checkpoints": 16_000_000, "metadata": {}}]
        entries["files"] = {name: entry for name, entry in entries["files"].items() if name.startswith("train/")}

    edit(folder / "shard-00000.json", consistent)


def a_hole(table: Any) -> Any:
    import pyarrow as pa

    return table.set_column(2, table.column_names[2], pa.array([None, *table.column(2).to_pylist()[1:]], pa.float32()))


def a_wide_row(table: Any) -> Any:
    """Lists of a million numbers, under the type of lists that are wanted."""
    import pyarrow as pa

    wide = pa.array([[0.0] * 1_000_000] * len(table), pa.list_(pa.float32()))
    return table.set_column(table.column_names.index("params"), "params", wide)


def a_long_page(folder: Path) -> None:
    """A page of parameters that claims more bytes than the file's metadata say; one may claim 2 GB."""
    import pyarrow.parquet as pq

    path = folder / "train" / "shard-00000.parquet"
    group = pq.ParquetFile(path).metadata.row_group(0)
    data = bytearray(path.read_bytes())
    at = group.column(group.num_columns - 1).data_page_offset
    assert data[at : at + 3] == b"\x15\x00\x15"  # a data page; then its size, of two bytes
    assert data[at + 3] >= 128 > data[at + 4]
    data[at + 3 : at + 5] = b"\xfe\x7f"
    path.write_bytes(data)
    edit(folder / "shard-00000.json", lambda m: m["files"]["train/shard-00000.parquet"].update(fingerprint(path)))


RUNS = [{"run": 0, "first_row": 0, "num_checkpoints": 10**15, "metadata": {}}]
DATASETS: dict[str, tuple[Callable[[Path], object], str]] = {
    "header {}": (lambda f: (f / "dataset.json").write_text("{}"), "dataset.json"),
    "header missing": (lambda f: (f / "dataset.json").unlink(), "dataset.json"),
    "of a newer version": (header(version=99), "version"),
    "dtype nonsense": (header(dtype="object"), "dtype"),
    "layout of 10**18 parameters": (header(layout=[["a", [10**9, 10**9]]], num_params=10**18), "at most"),
    "layout of 10**10 parameters": (header(layout=[["a", [10**5, 10**5]]], num_params=10**10), "too many"),
    "more shards than there are": (header(num_shards=10**6), "missing"),
    "10**12 shards": (header(num_shards=10**12), "num_shards"),
    "manifest {}": (lambda f: (f / "shard-00000.json").write_text("{}"), "shard-00000.json"),
    "manifest of 10**15 checkpoints": (manifest(runs=RUNS), "checkpoints"),
    "runs a number": (manifest(runs=7), "shard-00000.json"),
    "an array of 10**12 numbers": (manifest(arrays={"mask": {"dtype": "F32", "shape": [10**12]}}), "mask"),
    "an array of nonsense": (manifest(arrays={"mask": {"dtype": "object", "shape": []}}), "mask"),
    "a file of another folder": (manifest(files={"../../etc/passwd": PASSWORDS}), "must list"),
    "a file that is missing": (lambda f: (f / "train" / "shard-00000.parquet").unlink(), "is missing"),
    "a file that was altered": (
        lambda f: (f / "train" / "shard-00000.parquet").write_bytes(b"PAR1" + b"0" * 500),
        "checksum",
    ),
    "a column missing": (parquet(lambda t: t.drop_columns(["loss"])), "no column 'loss'"),
    "vectors of another length": (parquet(narrower), "params"),
    "a run that is not listed": (
        parquet(lambda t: t.set_column(0, "run", [np.full(len(t), 77)])),
        "does not list all runs",
    ),
    "16 million equal rows": (many_rows, "would unpack"),
    "rows of a million numbers": (parquet(a_wide_row), "params"),
    "a page that claims more": (a_long_page, "claim"),
    "a hole": (parquet(a_hole), "has empty cells"),
    "a file that is a folder": (lambda f: swap(f / "dataset.json", Path.mkdir), "dataset.json"),
    "a manifest that is a pipe": (lambda f: swap(f / "shard-00000.json", os.mkfifo), "a pipe"),
    "a column as an array": (manifest(arrays={"run": {"dtype": "I64", "shape": []}}), "the name of a column"),
    "an array of a negative size": (manifest(arrays={"mask": {"dtype": "F32", "shape": [-1]}}), "mask"),
    "rows a string": (manifest(files={"train/shard-00000.parquet": {**PASSWORDS, "rows": "80"}}), "rows"),
    "fewer rows": (parquet(lambda t: t.slice(1)), "rows"),
}


def test_a_malformed_configuration_is_one_sentence(tmp_path, subtests):
    write_synthetic(tmp_path / "store", num_shards=1)
    export_parquet(CheckpointStore(tmp_path / "store"), tmp_path / "parquet")
    for number, (name, (damage, word)) in enumerate(DATASETS.items()):
        damaged = shutil.copytree(tmp_path / "parquet", tmp_path / f"parquet{number}")
        damage(damaged)
        with subtests.test(name), limited():
            with pytest.raises((ValueError, OSError)) as error:
                import_parquet(damaged, tmp_path / f"back{number}")
            assert word in is_one_sentence(error.value)


def test_a_malformed_shard_with_matching_checksums_is_one_sentence(tmp_path, subtests):
    write_synthetic(tmp_path / "store", num_shards=1)
    whole = tmp_path / "store" / "shard-00000.safetensors"
    tensors = load_file(whole)
    save_file({**tensors, "twin": tensors["params"].clone()}, whole)
    for number, (name, (damage, word)) in enumerate(TENSOR_FILES.items()):
        path = shutil.copytree(whole.parent, tmp_path / str(number)) / whole.name
        damage(path)
        edit(path.with_suffix(".json"), lambda m, path=path: m["files"].update({path.name: fingerprint(path)}))
        with subtests.test(name), limited():
            with pytest.raises(ValueError, match=r"\S") as error:
                CheckpointStore(path.parent).params(np.arange(3))
            assert word in is_one_sentence(error.value)
