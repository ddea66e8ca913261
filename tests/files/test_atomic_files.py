import errno
import json
import os

import pytest
import torch

from g_pt.files import atomic as atomic_files
from g_pt.files.atomic import atomic_folder, atomic_path, fingerprint, is_leftover, read_json, write_json
from g_pt.files.tensor import write_tensors


def test_what_was_written_takes_the_name(tmp_path):
    with atomic_path(tmp_path / "new" / "file") as temporary:
        temporary.write_text("content")
        assert not (tmp_path / "new" / "file").exists()
        assert temporary.parent == tmp_path / "new"  # renaming is atomic within a file system only
    assert (tmp_path / "new" / "file").read_text() == "content"
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_exception_keeps_the_old_content_and_leaves_no_other_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error_and_keeps_the_old_content(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass
    assert path.read_text() == "old"


def test_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(atomic_files.os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(atomic_files.os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write_json(tmp_path / "file.json", {})
    assert calls == ["fsync", "replace"]


def test_json_round_trip_with_the_same_bytes_every_time(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"text": "ü²", "empty": []}}
    write_json(tmp_path / "1.json", value)
    write_json(tmp_path / "2.json", value)
    assert read_json(tmp_path / "1.json") == value
    assert list(read_json(tmp_path / "1.json")) == ["b", "a"]
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_a_value_that_is_not_json_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, {"set": {1}})
    assert read_json(path) == [1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00"])
def test_damaged_json_is_an_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "damaged.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.json is not valid JSON") as error:
        read_json(path)
    assert not isinstance(error.value, json.JSONDecodeError | UnicodeDecodeError)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p.mkdir(), "must be a regular file, got a folder"),
        (os.mkfifo, "must be a regular file, got a pipe"),
        (lambda p: p.symlink_to("/dev/zero"), "must be a regular file, got a device"),
        (lambda p: p.symlink_to(p.with_name("lost")), "there is no file"),
        (lambda p: None, "there is no file"),
    ],
)
def test_only_regular_files_are_read(tmp_path, make, said):
    make(tmp_path / "f.json")
    for read in (read_json, fingerprint):
        with pytest.raises(OSError, match=said):
            read(tmp_path / "f.json")


def test_json_that_readers_would_take_differently_is_refused(tmp_path):
    (tmp_path / "f.json").write_text('{"a": {"b\\u001b": 1, "c": 2, "b\\u001b": 3}}')
    with pytest.raises(ValueError, match=r"the entry 'b\\x1b' comes twice"):
        read_json(tmp_path / "f.json")
    (tmp_path / "many.json").write_text("{" + ",".join(f'"{i % 99_999}":1' for i in range(100_000)) + "}")
    with pytest.raises(ValueError, match=r"the entry '0' comes twice"):
        read_json(tmp_path / "many.json")


def test_json_of_another_size_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "f.json").write_text("[1, 2, 3]")
    with pytest.raises(ValueError, match="has 9 bytes, more than any such file"):
        read_json(tmp_path / "f.json", max_bytes=8)
    assert read_json(tmp_path / "f.json", max_bytes=9) == [1, 2, 3]


@pytest.mark.parametrize("content", [b"[" * 100_000, b"1" * 5000, b"{\x00}"])
def test_json_that_python_cannot_read_is_one_line(tmp_path, content):
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(ValueError, match="is not valid JSON") as error:
        read_json(tmp_path / "f.json")
    assert "\n" not in str(error.value)


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o640
    os.umask(before)


def test_files_follow_the_umask_whoever_writes_them(tmp_path, umask):
    with atomic_path(tmp_path / "file") as temporary:
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    assert (tmp_path / "file").stat().st_mode & 0o777 == umask
    write_tensors(tmp_path / "t.safetensors", {"a": torch.zeros(2)})
    assert (tmp_path / "t.safetensors").stat().st_mode & 0o777 == umask


def nothing_else(folder):
    if {path.name for path in folder.iterdir()} - {"ours.safetensors"}:
        raise ValueError(f"{folder} holds something else")


def test_a_folder_is_replaced_whole_and_only_where_it_is_ours(tmp_path, umask):
    folder = tmp_path / "p"
    (tmp_path / "p.tmp").mkdir()
    (tmp_path / "p.tmp" / "thesis.tex").write_text("a user's")
    for content in ("first", "second"):
        with atomic_folder(folder, nothing_else) as temporary:
            (temporary / "ours.safetensors").write_text(content)
            (temporary / "ours.safetensors").chmod(0o600)
        assert (folder / "ours.safetensors").read_text() == content
        assert (folder / "ours.safetensors").stat().st_mode & 0o777 == umask
    with pytest.raises(KeyboardInterrupt), atomic_folder(folder, nothing_else) as temporary:  # noqa: PT012
        (temporary / "ours.safetensors").write_text("half")
        raise KeyboardInterrupt
    (folder / "notes.txt").write_text("a user's")
    with pytest.raises(ValueError, match="holds something else"), atomic_folder(folder, nothing_else):
        raise AssertionError("the block must not run")
    assert (folder / "ours.safetensors").read_text() == "second"
    assert {path.name for path in tmp_path.iterdir()} == {"p", "p.tmp"}
    assert (tmp_path / "p.tmp" / "thesis.tex").exists()


def test_a_folder_that_a_killed_process_left_half_written_is_removed(tmp_path):
    left = [
        ".p.g-pt-4000000-0123abcd.tmp",
        f".p.g-pt-{os.getppid()}-0123abcd.tmp",
        ".p.g-pt-notes.tmp",
        ".q.g-pt-4000000-0123abcd.tmp",
    ]
    for name in left:
        (tmp_path / name).mkdir()
    with atomic_folder(tmp_path / "p", nothing_else):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"p", *left[1:]}


def test_a_folder_that_is_no_more_ours_when_the_work_is_done_stays(tmp_path):
    with pytest.raises(ValueError, match="something else"), atomic_folder(tmp_path / "p", nothing_else) as temporary:  # noqa: PT012
        (temporary / "ours.safetensors").touch()
        (tmp_path / "p").mkdir()
        (tmp_path / "p" / "notes.txt").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["p", "notes.txt"]


def test_leftovers_are_ours_and_of_the_dead(tmp_path):
    def is_ours(name):
        return name == "shard-00000.json"

    dead = 4_000_000  # above the largest number of a process
    left = [f".shard-00000.json.g-pt-{dead}-0123abcd.tmp", f"shard-00000.json.{dead}.tmp"]
    kept = ["shard-00000.json.tmp", "shard-00000.json", f".shard-00000.json.g-pt-{os.getppid()}-0123abcd.tmp",
            f"notes.{dead}.tmp", f".notes.g-pt-{dead}-0123abcd.tmp"]  # fmt: skip
    assert [name for name in left + kept if is_leftover(tmp_path / name, is_ours)] == left
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "shard-00000.json") as temporary:  # noqa: PT012
        assert is_leftover(temporary, is_ours)  # of this process: after a kill its number may be this one's
        raise RuntimeError


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"f cannot be written: No space left on device$"), atomic_path(tmp_path / "f"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(IsADirectoryError, match="is a folder"):
        write_json(tmp_path, {})
