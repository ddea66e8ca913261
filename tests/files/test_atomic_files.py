import json
import os

import pytest

from g_pt.files import atomic as atomic_files
from g_pt.files.atomic import atomic_path, read_json, write_json


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
