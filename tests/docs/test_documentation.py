"""What README and docs say can be run, runs; what they point to, exists.

Python blocks are run, in order, per page. The commands of bash blocks are parsed by the programs they name, not run: a
harvest or training takes minutes, an installation wants the network. The tutorial's commands are run too, scaled down
(tests/docs/test_tutorial.py), and so is the harvest of docs/extending.md.
"""

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dataset_fixtures import environment, finished_harvest
from documents import (
    FILES_OF,
    OUTPUT,
    PAGES,
    ROOT,
    TRIED,
    assert_command_parses,
    blocks_of,
    commands_of,
    files_of_pages,
)
from local_hub import LocalHub
from tiny_training import tiny_store

from checkpoints_dataset.hub import push_dataset
from checkpoints_dataset.store import CheckpointStore
from g_pt.commands import harvest
from g_pt.hub.download import resolve_model
from g_pt.tasks import registry

TUTORIAL = ROOT / "docs" / "tutorial.md"
HUB = ROOT / "docs" / "hub.md"
PYTHON_PAGES = [p for p in PAGES if p not in (TUTORIAL, HUB) and any(b.language == "python" for b in blocks_of(p))]
COMMANDS = {
    page: [(block.line, words) for block in blocks_of(page) if block.language == "bash"
           for words in commands_of(block.text)]
    for page in PAGES
}  # fmt: skip


@pytest.fixture
def folder_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every file that a page shows, and a registry of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    for name, content in files_of_pages().items():
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
def test_python_blocks_run_in_order(page: Path, folder_of_files: Path) -> None:
    names: dict[str, object] = {"__name__": "documentation"}
    blocks = [block for block in blocks_of(page) if block.language == "python"]
    if any("runs/digits/checkpoints" in block.text for block in blocks):
        tiny_store(folder_of_files / "runs" / "digits" / "checkpoints")
    for block in blocks:
        exec(compile("\n" * block.line + block.text, page.name, "exec"), names)  # errors then have the page's line


@pytest.mark.slow
def test_the_page_on_the_hub_runs_against_a_local_hub(default_hub: LocalHub, tmp_path: Path) -> None:
    default_hub.push("org/name", resolve_model("digits-loss"))
    push_dataset(CheckpointStore(finished_harvest()), "org/checkpoints")
    program = "\n".join(block.text for block in blocks_of(HUB) if block.language == "python")
    assert "org/name" in program
    assert "org/checkpoints" in program
    home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": default_hub.url, "HF_HUB_DISABLE_XET": "1"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment() | home, cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if COMMANDS[page]], ids=lambda page: page.name)
def test_commands_of_bash_blocks_parse(
    page: Path,
    folder_of_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    subtests: pytest.Subtests,
) -> None:
    for line, words in COMMANDS[page]:
        with subtests.test(f"line {line}: {' '.join(words)}"):
            assert_command_parses(words, monkeypatch)


WRONG = [
    "gpt-sample --num-sample 1",
    "OMP_NUM_THREADS=1 gpt-sample --num-sample 1",
    "gpt-nothing",
    "python train/train_g_pt.py --x",
    "python -m benchmarks.all --x",
    "python -m benchmarks.nothing",
    "python -m http.server",
    "torchrun --nproc_per_node 4 -m g_pt.commands.harvest --num-rus 12",
    "accelerate launch --num_processes 4 --module g_pt.commands.harvest --num-rus 12",
    "torchrun --nproc_per_node 4",
    "torchrun --processes 4 -m g_pt.commands.harvest",
    "accelerate launch --gpus 4 train/train_g_pt.py",
    "hf auth logout",
]


def test_a_wrong_command_would_be_seen(
    folder_of_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    subtests: pytest.Subtests,
) -> None:
    for command in WRONG:
        with subtests.test(command), pytest.raises((AssertionError, ImportError, SystemExit)):
            assert_command_parses(command.split(), monkeypatch)


def test_every_block_says_what_it_is(subtests: pytest.Subtests) -> None:
    for page in PAGES:
        for block in blocks_of(page):
            with subtests.test(f"{page.name}, line {block.line}"):
                assert block.language in TRIED | FILES_OF | OUTPUT
                if block.language == "yaml":
                    assert isinstance(yaml.safe_load(block.text), dict)
                    assert block.file, "begin it with `# name.yaml`"


def test_the_task_file_is_harvested_as_the_page_says(folder_of_files: Path) -> None:
    page = (ROOT / "docs" / "extending.md").read_text()
    (arguments,) = re.findall(r"^gpt-harvest (--task my_task.*)$", page, re.MULTILINE)
    small = ["--num-runs", "4", "--num-steps", "30", "--num-checkpoints", "2"]
    harvest.main([*arguments.replace("--num-runs 2000", "").split(), *small])
    store = CheckpointStore("runs/cancer/checkpoints")
    assert store.header.task == "breast-cancer"
    assert store.metrics["error"][store.step == 30].max() < 15


def test_files_that_pages_name_exist() -> None:
    assert {page.name: missing for page in PAGES if (missing := missing_files(page))} == {}


def missing_files(page: Path) -> list[str]:
    """What a page links to or names as a path, and what is not there."""
    text = page.read_text()
    links = [page.parent / target for target in re.findall(r"\]\((?!http)([^)#]+)\)", text)]
    paths = [
        ROOT / path
        for path in re.findall(
            r"`((?:g_pt|checkpoints_dataset|rl_tasks|train|sample|benchmarks|tests|docs)/[\w./-]+)`", text
        )
    ]
    return [str(path) for path in links + paths if not path.exists()]


DOTTED = re.compile(r"`((?:g_pt|checkpoints_dataset|rl_tasks)(?:\.[A-Za-z]\w*)+)`")


def test_modules_that_pages_name_exist() -> None:
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]
    missing = {(page.name, name) for page in pages for name in DOTTED.findall(page.read_text()) if not importable(name)}
    assert missing == set()


def test_the_changelog_says_where_every_module_went() -> None:
    rows = re.findall(r"^\| (`\w+\..*) \| (.*) \|$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    before = [name for then, _ in rows for name in DOTTED.findall(re.sub(r"`\S+` \(a module\)", "", then))]
    now = [name for _, found in rows for name in DOTTED.findall(found)]
    assert len(before) > 50
    assert [name for name in before if importable(name)] == []
    assert [name for name in now if not importable(name)] == []


def importable(name: str) -> bool:
    """Whether a dotted name is a module or something in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


def test_nothing_is_left_to_fill_in() -> None:
    for page in PAGES:
        assert "@@" not in page.read_text(), page.name


def test_presets_that_are_named_exist() -> None:
    presets = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "train").glob("*presets/*.yaml")}
    named = {name for page in PAGES for name in re.findall(r"--preset ([a-z][\w-]*)", page.read_text())}
    assert named
    assert named <= set(presets)
