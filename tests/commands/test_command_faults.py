"""What people get wrong at the command line: one sentence, before the work."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from g_pt.command_line.output import check_fits, json_line
from g_pt.commands import evaluate, harvest, sample, train

ROOT = Path(__file__).parents[2]
ONE_STEP = ["--prompt-loss", "0.3", "--num-inference-steps", "1"]
SMALL_REPORT = ["--networks", "2", "--prompts", "2", "--num-inference-steps", "1", "--sections", "prompting"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ended(main, arguments, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as status:
        main(arguments)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return status.value.code, error


@pytest.mark.parametrize(
    ("main", "arguments", "status", "words"),
    [
        (sample.main, [], 2, "give exactly one prompt"),
        (sample.main, ["--prompt-accuracy"], 2, "--prompt-accuracy must be followed by a number, got ''"),
        (sample.main, [*ONE_STEP, "--seed", "-1"], 2, "seed must be a whole number from 0 to 2**63 - 1, got -1"),
        (sample.main, [*ONE_STEP, "--seed", str(2**63)], 2, f"got {2**63}"),
        (harvest.main, ["--seed", str(2**64)], 2, f"got {2**64}"),
        (train.main, ["--harvest.seed", str(2**64)], 2, f"got {2**64}"),
        (evaluate.main, ["--prompt-range", "1", "1e300"], 1, "must be two numbers of float32, the smaller first"),
        (evaluate.main, ["--prompt-range", "nan", "1"], 1, "got nan and 1"),
        (sample.main, [*ONE_STEP, "--num-samples", "1000000000"], 1, "GiB of memory, this machine has"),
        (sample.main, [*ONE_STEP, "--model", "out/pipeline"], 1, "gpt-sample: there is no folder out/pipeline; as a"),
        (sample.main, [*ONE_STEP, "--out", "file/x.safetensors"], 1, "cannot be written: file is no folder"),
        (sample.main, [*ONE_STEP, "--out", "folder.safetensors"], 1, "--out must be a file, folder.safetensors is a"),
        (harvest.main, ["--out", "file/made"], 1, "--out file/made cannot be written: file is no folder"),
        (evaluate.main, ["--json", "file/report.json"], 1, "--json file/report.json cannot be written"),
        (train.main, ["--output", "file/made"], 1, "--output file/made cannot be written: file is no folder"),
        (train.main, ["--output", "a", "--pipeline", "b/../a"], 1, "--pipeline must be another folder than --output"),
    ],
)
def test_one_sentence_before_the_work(main, arguments, status, words, capsys):
    Path("file").touch()
    Path("folder.safetensors").mkdir()
    code, error = ended(main, arguments, capsys)
    assert code == status
    assert words in error
    assert sorted(path.name for path in Path().iterdir()) == ["file", "folder.safetensors"]


def test_a_seed_that_is_no_whole_number_is_refused(capsys):
    with pytest.raises(SystemExit) as status:
        sample.main([*ONE_STEP, "--seed", "1e30"])
    assert status.value.code == 2
    assert "--seed" in capsys.readouterr().err


def test_the_same_call_writes_the_same_bytes_and_says_what_it_replaced(capsys):
    written = []
    for _ in range(3):
        sample.main(ONE_STEP)
        said = capsys.readouterr().out
        written.append((hashlib.sha256(Path("updated.safetensors").read_bytes()).hexdigest(), said.splitlines()[-1]))
    first = written[0][0]
    expected = ["written: updated.safetensors"] + ["replaced: updated.safetensors"] * 2
    assert written == [(first, line) for line in expected]


def test_home_is_expanded_where_the_shell_did_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    sample.main([*ONE_STEP, "--out", "~/mine.safetensors", "--json"])
    [file] = json.loads(capsys.readouterr().out)["files"]
    assert file == {"file": f"{tmp_path}/mine.safetensors", "replaced": False}
    assert (tmp_path / "mine.safetensors").is_file()
    _, error = ended(sample.main, [*ONE_STEP, "--model", "~/absent/model"], capsys)
    assert f"{tmp_path}/absent/model" in error


@pytest.mark.slow  # libraries look for their folders when they are imported: new processes
@pytest.mark.parametrize("home", [None, "/proc/1"])
def test_no_home_folder_is_needed_for_what_is_bundled(tmp_path, home):
    left_out = ("HOME", "HF_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "G_PT_CACHE")
    given = {k: v for k, v in os.environ.items() if k not in left_out} | ({} if home is None else {"HOME": home})
    program = f"from g_pt.commands import evaluate, sample; sample.main({ONE_STEP}); evaluate.main({SMALL_REPORT})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=given | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "updated.safetensors").is_file()
    assert (tmp_path / "evaluation" / "report.md").is_file()


def test_json_has_no_nan():
    assert json_line({"a": [float("nan"), (1, float("inf"))], "b": 0.5}) == '{"a": [null, [1, null]], "b": 0.5}'


def test_what_fits_is_not_refused():
    check_fits(1e6, "a million")
    with pytest.raises(ValueError, match=r"a lot would take about 953,674\.3 GiB"):
        check_fits(1024e12, "a lot")


@pytest.mark.parametrize("reader", ["head -n 1", "true"])
def test_a_reader_that_has_enough_ends_the_command_without_a_word(reader):
    command = f"{sys.executable} -m g_pt.commands.sample --help | {reader}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.stderr == ""


def test_every_command_says_its_version(capsys):
    for main, name in ((sample.main, "gpt-sample"), (train.main, "gpt-train")):
        with pytest.raises(SystemExit) as status:
            main(["--version"])
        assert status.value.code == 0
        assert capsys.readouterr().out.startswith(f"{name} (g-pt) 0.")
