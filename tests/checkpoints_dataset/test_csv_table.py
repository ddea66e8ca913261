"""Tables as people have them are read; what no table should hold is named with its line."""

import gzip
from pathlib import Path

import pytest
from malformed import is_one_sentence, limited

from checkpoints_dataset.csv_table import read_table
from g_pt.networks.metrics import Metric

METRICS = {"loss": Metric("loss", "nats", transform="log"), "error": Metric("error", "%", transform="log1p")}
PLAIN = "file,run,step,loss,error\na/0.pt,seed 0,0,2.5,90\na/1.pt,seed 0,1000,0.25,10.5\n"
ROWS = [("a/0.pt", "seed 0", 0, {"loss": 2.5, "error": 90}), ("a/1.pt", "seed 0", 1000, {"loss": 0.25, "error": 10.5})]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    for name in ("0.pt", "1.pt"):
        (tmp_path / "a" / name).touch()
    return tmp_path


def read(folder: Path, content: str | bytes, metrics=METRICS):
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with limited():
        rows = read_table(path, folder, metrics)
    return [(row.path.relative_to(folder).as_posix(), row.run, row.step, row.metrics) for row in rows]


KINDS = {
    "plain": PLAIN,
    "semicolons": PLAIN.replace(",", ";"),
    "semicolons and commas in numbers": PLAIN.replace(",", ";").replace(".5", ",5").replace("0.25", "0,25"),
    "tabs": PLAIN.replace(",", "\t"),
    "bars": PLAIN.replace(",", "|"),
    "upper case": PLAIN.replace("file,run,step,loss,error", "File,RUN, Step ,Loss,ERROR"),
    "UTF-8 with a mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16, the other way round": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "comments": "# my runs\n\n" + PLAIN.replace("\na/1", "\n# the end, half, way, 1, 2\n\na/1"),
    "Windows": PLAIN.replace("a/", "a\\").replace("\n", "\r\n"),
    "old Macintosh": PLAIN.replace("\n", "\r"),
    "percent": PLAIN.replace("90\n", "90%\n").replace("10.5\n", "10.5 %\n"),
    "gzipped": gzip.compress(PLAIN.encode()),
    "gzipped in parts": gzip.compress(PLAIN[:30].encode()) + gzip.compress(PLAIN[30:].encode()),
    "quoted": PLAIN.replace("seed 0", '"seed 0"'),
    "more columns": PLAIN.replace("error\n", "error,note,note\n").replace("90\n", "90,x,y\n"),
    "commas at the ends": PLAIN.replace("90\n", "90,,\n"),
    "other forms of numbers": PLAIN.replace("2.5", "+25e-1").replace("1000", "1e3").replace("0.25", ".25"),
    "another order": "error,loss,step,run,file\n90,2.5,0,seed 0,a/0.pt\n10.5,.25,1000,seed 0,a/1.pt\n",
    "no line break at the end": PLAIN.rstrip(),
}


def test_tables_as_people_have_them_are_read(folder, subtests):
    for name in KINDS:
        with subtests.test(str(name)[:80]):
            assert read(folder, KINDS[name]) == ROWS


def test_exact_names_go_before_those_of_another_case(folder):
    table = PLAIN.replace("error\n", "error,Loss\n").replace("90\n", "90,7\n").replace("10.5\n", "10.5,8\n")
    assert read(folder, table) == ROWS


def changed(old: str, new: str) -> str:
    assert old in PLAIN
    return PLAIN.replace(old, new)


WRONG = {
    "step 1e25": (changed(",1000,", ",1e25,"), "line 3: step must be a whole number from 0 on, got '1e25'"),
    "step -1": (changed(",1000,", ",-1,"), "line 3: step must be a whole number from 0 on"),
    "step 0.5": (changed(",1000,", ",0.5,"), "line 3: step must be a whole number from 0 on"),
    "step nan": (changed(",1000,", ",nan,"), "line 3: step must be finite"),
    "loss 1e39": (changed("0.25", "1e39"), "line 3: loss must be finite in float32, got '1e39'"),
    "loss 1e400": (changed("0.25", "1e400"), "line 3: loss must be finite in float32"),
    "loss -1.5": (changed("0.25", "-1.5"), "line 3: loss must not be negative, since the model sees its log"),
    "loss NaN": (changed("0.25", "NaN"), "line 3: loss must be finite, got 'NaN'; leave diverged runs out"),
    "loss -Infinity": (changed("0.25", "-Infinity"), "line 3: loss must be finite"),
    "1_000": (changed("0.25", "1_000"), "line 3: loss must be a number, got '1_000'; give it as a plain"),
    "Arabic digits": (changed("0.25", "١٢"), "line 3: loss must be a number"),
    "hexadecimal": (changed("0.25", "0x1p3"), "line 3: loss must be a number"),
    "percent of what is none": (changed("0.25", "80%"), "line 3: loss must be a number, got '80%'; give it as a plain"),
    "a column twice": (changed("error\n", "error,loss\n"), "has the column 'loss' 2 times"),
    "a column twice in other cases": (changed(",loss,", ",LOSS,").replace("error\n", "error,Loss\n"), "'loss' 2 times"),
    "more cells than columns": (changed("10.5\n", "10.5,7\n"), "line 3 has 6 cells, the table has 5 columns"),
    "fewer cells": (changed(",10.5\n", "\n"), "line 3: error is empty"),
    "a comma in a number": (changed("0.25", "0,25"), "line 3 has 6 cells"),
    "no columns": (changed("file,", "path,"), "['file'] are missing, it has ['path'"),
    "no rows": ("file,run,step,loss,error\n", "names no files"),
    "nothing": ("", "must have the columns"),
    "only comments": ("# a\n# b\n", "must have the columns"),
    "Latin-1": (PLAIN.replace("seed", "sämling").encode("latin-1"), "is not text in UTF-8 or UTF-16"),
    "UTF-16 cut off": (PLAIN.encode("utf-16")[:-1], "is not text in UTF-8 or UTF-16"),
    "zeros": (bytes(10_000), "must have the columns"),
    "noise": (bytes(range(1, 128)) * 100, "must have the columns"),
    "a damaged gzip": (gzip.compress(PLAIN.encode())[:-9], "is damaged"),
    "a long cell": (changed("0.25", "1" * 200_000), "is no valid CSV: field larger"),
    "escapes": (changed("0.25", "\x1b[31m"), r"loss must be a number, got '\x1b[31m'"),
    "no such file": (changed("a/1.pt", "a/lost.pt"), "line 3: there is no file"),
    "a folder": (changed("a/1.pt", "a"), "line 3: there is no file"),
}


def test_what_is_wrong_is_one_sentence_that_names_the_line(folder, subtests):
    for name in WRONG:
        with subtests.test(str(name)[:80]):
            content, said = WRONG[name]
            with pytest.raises((ValueError, OSError)) as error:
                read(folder, content)
            assert said in is_one_sentence(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(bytes(300_000_000), 1), "more than 100,000,000 bytes when it is unpacked"),
        (b"\n" * 30_000_000, "must have the columns"),
        (b"a\n" * 15_000_000, "must have the columns"),
        (PLAIN.encode() + b"a/0.pt\n" * 4_000_000, "line 4: run is empty"),
        (b"," * 30_000_000, "is no valid CSV: line 1 has 30,000,000 characters, the limit is 1,000,000"),
    ],
)
def test_large_tables_take_little_memory(folder, content, said):
    with pytest.raises(ValueError, match=said) as error:
        read(folder, content)
    is_one_sentence(error.value)


def test_metrics_that_may_be_negative(folder):
    metrics = {"return": Metric("return", "return", minimize=False)}
    assert read(folder, "file,run,step,return\na/0.pt,x,0,-200\n", metrics) == [("a/0.pt", "x", 0, {"return": -200})]
