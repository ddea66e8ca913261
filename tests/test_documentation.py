"""What README and docs say can be run, runs; what they point to, exists."""

import re
from pathlib import Path

import pytest
import yaml
from tiny_training import tiny_store

from checkpoints_dataset.store import CheckpointStore
from g_pt.commands import harvest
from g_pt.tasks import registry

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# blocks that begin with "# name.py" are files, which the other blocks may use
FILES = {
    name: block
    for page in PAGES
    for block, name in re.findall(r"```python\n(# (\w+\.py)\n.*?)```", page.read_text(), re.DOTALL)
}
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    if "runs/digits/checkpoints" in block:
        tiny_store(tmp_path / "runs" / "digits" / "checkpoints")
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    exec(compile(block, "documentation", "exec"), {})


def test_the_task_file_is_harvested_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    (tmp_path / "my_task.py").write_text(FILES["my_task.py"])
    page = (ROOT / "docs" / "extending.md").read_text()
    (arguments,) = re.findall(r"^gpt-harvest (.*)$", page, re.MULTILINE)
    small = ["--num-runs", "4", "--num-steps", "30", "--num-checkpoints", "2"]
    harvest.main([*arguments.replace("--num-runs 2000", "").split(), *small])
    store = CheckpointStore("runs/cancer/checkpoints")
    assert store.header.task == "breast-cancer"
    assert store.metrics["error"][store.step == 30].max() < 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    links = [page.parent / target for target in re.findall(r"\]\((?!http)([^)#]+)\)", text)]
    paths = [
        ROOT / path
        for path in re.findall(r"`((?:g_pt|checkpoints_dataset|rl_tasks|train|benchmarks|tests|docs)/[\w./-]+)`", text)
    ]
    missing = [str(path) for path in links + paths if not path.exists()]
    assert not missing


def test_nothing_is_left_to_fill_in() -> None:
    for page in PAGES:
        assert "@@" not in page.read_text(), page.name


def test_presets_that_are_named_exist() -> None:
    presets = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "train" / "presets").glob("*.yaml")}
    named = {name for page in PAGES for name in re.findall(r"--preset ([\w-]+)", page.read_text())}
    assert named
    assert named <= set(presets)
