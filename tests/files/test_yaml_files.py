"""YAML that is large, deep, multiplied or broken: one sentence, and no memory."""

import os
import time
import tracemalloc

import pytest

from g_pt.files.yaml_files import read_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
REFUSED = {
    "deep": ("a: " + "[" * 5000, "must be nested at most 20 deep, line 1, column 23"),
    "deep blocks": ("".join(" " * i + "a:\n" for i in range(500)), "must be nested at most 20 deep, line 21"),
    "billion laughs": (LAUGHS, "must have at most 20,000 values, aliases expanded, line 5"),
    "an alias of itself": ("a: &x [1, *x]", r"the alias \*x, line 1, column 11 stands within what it stands for"),
    "many values": ("a: [" + "1," * 30_000 + "]", "must have at most 20,000 values"),
    "large": ("a: " + "x" * 2_000_000, r"must have at most 1,048,576 bytes to be a file of settings, it has 2,000,003"),
    "unclosed": ("a: [1\nb: 2\n", "is not valid YAML: .*, line 2, column 2"),
    "a tab": ("a:\n\tb: 1\n", "is not valid YAML: found character .*, line 2, column 1"),
    "code": ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor .*, line 1, column 4"),
    "a key twice": ("b:\n  a: 1\n  a: 2\n", "the key 'a' stands twice, line 3, column 3"),
    "no such day": ("a: 2024-13-45", "month must be in 1..12"),
    "control characters": ("a: \x07", "special characters are not allowed at character 3"),
    "an unknown alias": ("a: *b", "found undefined alias 'b', line 1, column 4"),
    "a long integer": ("a: " + "1" * 5000, "Exceeds the limit"),
}


def test_what_is_no_file_of_settings_is_one_sentence(tmp_path, subtests):
    for name in REFUSED:
        with subtests.test(str(name)[:80]):
            text, message = REFUSED[name]
            path = tmp_path / "my.yaml"
            path.write_text(text)
            started = time.perf_counter()
            tracemalloc.start()
            with pytest.raises(ValueError, match=message) as error:
                read_yaml(path)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert "\n" not in str(error.value)
            assert str(path) in str(error.value)
            assert len(str(error.value)) < 400
            assert most < 100e6
            assert time.perf_counter() - started < 30


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "my.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ValueError, match=r"my\.yaml must be text in UTF-8: invalid start byte at byte 3"):
        read_yaml(tmp_path / "my.yaml")


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "my.yaml")
    with pytest.raises(ValueError, match="there is no settings file"):
        read_yaml(tmp_path / "my.yaml")


def test_anchors_and_merged_sections_work(tmp_path):
    (tmp_path / "my.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n")
    assert read_yaml(tmp_path / "my.yaml") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}
