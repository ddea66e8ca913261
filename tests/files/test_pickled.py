"""Files of torch.save: no code runs, and a small file never takes much memory."""

import os
import zipfile
from pathlib import Path

import pytest
import torch
from malformed import is_one_sentence, limited

from g_pt.files import pickled
from g_pt.files.pickled import check_dense, read_pickled, write_pickled


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    monkeypatch.setattr(pickled, "MAX_PICKLE_BYTES", 1_500_000)  # in a quarter of the time
    with limited():
        yield


def deflated(path: Path) -> None:
    """50 kilobytes that would unpack to 50 MB."""
    torch.save({"a": torch.zeros(12_500_000)}, path)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(path.with_suffix(".z"), "w", zipfile.ZIP_DEFLATED) as other:
        for part in archive.infolist():
            other.writestr(part.filename, archive.read(part))
    os.replace(path.with_suffix(".z"), path)


def one_buffer(path: Path, zipped: bool) -> None:
    """A hundred bytes that ask for 3 GB by a number."""
    pickle = b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x6f\x85R."
    if zipped:
        archived(path, pickle)
    else:
        path.write_bytes(pickle)


def archived(path: Path, pickle: bytes) -> None:
    """An archive of torch.save with another pickle."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, pickle if name.endswith("data.pkl") else content)


def many_lists(path: Path) -> None:
    """Each byte of a pickle can be a list of 64 bytes."""
    path.write_bytes(b"\x80\x02" + b"]" * 30_000_000 + b".")


def copies(path: Path, function: bytes, made: bytes) -> None:
    """Six bytes for each copy of megabytes, or for each count of the letters of one."""
    archived(path, b"\x80\x02c" + function + b"\nq\x00" + made + b"q\x01" + b"h\x00h\x01\x85R" * 80_000 + b".")


TEXT = b"X" + (10**6).to_bytes(4, "little") + b"a" * 10**6
HOSTILE = {
    "a text counted again and again": (lambda p: copies(p, b"collections\nCounter", TEXT), "more memory than"),
    "copied lists": (lambda p: copies(p, b"torch\nSize", b"(" + b"N" * 10**6 + b"t"), "more memory than"),
    "encoded texts": (lambda p: copies(p, b"_codecs\nencode", TEXT), "more memory than"),
    "deflated": (deflated, "compressed inside"),
    "a buffer of 2 GB": (lambda p: one_buffer(p, True), "more memory than"),
    "a buffer of 2 GB, before 1.6": (lambda p: one_buffer(p, False), "more memory than"),
    "30 million lists": (many_lists, "more than 1,500,000 bytes besides the tensors"),
    "half an archive": (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(1000)), "damaged"),
    "a folder": (lambda p: p.mkdir(), "a folder"),
    "a pipe": (os.mkfifo, "a pipe"),
    "a device": (lambda p: p.symlink_to("/dev/zero"), "a device"),
    "nothing": (lambda p: None, "there is no file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_one_sentence(name, tmp_path):
    make, word = HOSTILE[name]
    make(tmp_path / "n.pt")
    with pytest.raises((ValueError, OSError)) as error:
        read_pickled(tmp_path / "n.pt")
    assert word in is_one_sentence(error.value)


def test_a_pickle_of_many_numbers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pickled, "MAX_PICKLE_BYTES", 20_000)
    torch.save({"a": torch.zeros(100_000), "losses": list(range(1000, 3000))}, tmp_path / "few.pt")
    assert set(read_pickled(tmp_path / "few.pt")) == {"a", "losses"}
    torch.save({"a": torch.zeros(100_000), "losses": list(range(1000, 30000))}, tmp_path / "many.pt")
    with pytest.raises(ValueError, match=r"many.pt has more than 20,000 bytes besides the tensors"):
        read_pickled(tmp_path / "many.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_of_torch_are_read_also_where_they_are_large(tmp_path, zipped):
    network = torch.nn.Linear(5, 3)
    content = {"a": torch.arange(2e6), "n": 3, "model": network.state_dict(), "p": network.weight}
    content["optimizer"] = torch.optim.Adam(network.parameters()).state_dict()
    torch.save(content, tmp_path / "n.pt", _use_new_zipfile_serialization=zipped)
    found = read_pickled(tmp_path / "n.pt")
    assert torch.equal(found["a"], torch.arange(2e6))
    assert torch.equal(found["model"]["weight"], network.weight)
    assert torch.equal(found["p"], network.weight)
    assert (found["n"], found["optimizer"]) == (3, content["optimizer"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "nested"),
        (lambda: torch.zeros(3, 3).to_sparse(), "sparse"),
        (lambda: torch.zeros(3, 3).to_sparse_csr(), "sparse"),
        (lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8), "quantised"),
        (lambda: torch.zeros(3, device="meta"), "meta"),
        (lambda: torch.zeros(1).expand(3_000_000_000), "stretched"),
        (lambda: torch.zeros(3).as_strided((10**6, 10**6), (0, 0)), "stretched"),
    ],
)
def test_only_dense_tensors_with_values(make, word):
    with pytest.raises(ValueError, match=f"t must be a dense|t has shape .*{word}") as error:
        check_dense(make(), "t")
    assert word in str(error.value)


def test_dense_tensors_pass():
    for tensor in (torch.zeros(3, 4).t(), torch.zeros(10)[::2], torch.nn.Parameter(torch.ones(2)), torch.zeros(0)):
        check_dense(tensor, "t")
    check_dense(torch.zeros(1).expand(3), "t")  # of a layer that ties its numbers, too small to matter


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, monkeypatch):
    write_pickled(tmp_path / "n.pt", {"a": torch.ones(2)})

    def full(content, path):
        Path(path).write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:858] .\nunexpected pos 704 vs 598")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"n\.pt cannot be written") as error:
        write_pickled(tmp_path / "n.pt", {"a": torch.zeros(2)})
    is_one_sentence(error.value)
    assert torch.equal(read_pickled(tmp_path / "n.pt")["a"], torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["n.pt"]
