"""The notebook is the tutorial's page; it runs from its first to its last cell, scaled down, and keeps its word."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from dataset_fixtures import environment
from documents import ROOT, blocks_of, program_module

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
# what takes minutes on the page, and what it becomes here
SMALLER = {
    "range(400)": "range(60)",
    "range(241)": "range(61)",
    "step % 12": "step % 6",
    "width: 64, num_layers: 3": "width: 48, num_layers: 2",
    "num_steps: 1000": "num_steps: 250",
    "num_steps: 150": "num_steps: 30",
    "--optimizer.num-steps 1500 --alignment.num-steps 200": "--optimizer.num-steps 250 --alignment.num-steps 30",
    "--num-runs 1000": "--num-runs 200",
}
# the report is that of a few networks here, and the training has one thread and measures nothing on its way
QUICK = {
    "--networks 64": "--networks 8 --quick --sections prompting",
    "optimizer: {": "progress: {evaluate_every: 0}\noptimizer: {cpu_threads: 1, mixed_precision: 'no', ",
}
CHECK = """
from checkpoints_dataset import CheckpointStore

assert wine_loss < 0.5 * fresh_loss, (wine_loss, fresh_loss)
assert len(CheckpointStore("runs/sine/checkpoints").runs) == 60
assert optimizer.num_kept >= 1, "the guard keeps an update"
assert begin > 2 * min(optimizer.last.loss_before, 1)
torch.manual_seed(99)
networks = [task.network() for _ in range(16)]
updated = [pipe.update_module(network, 0.03) for network in networks]
before, after = (sum(map(test_loss, some)) / 16 for some in (networks, updated))
assert after < before / 3, ("one update improves unseen networks of the recorded loop", before, after)
"""


def test_the_notebook_is_made_from_the_page() -> None:
    builder = program_module(ROOT / "docs" / "build_notebook.py")
    assert NOTEBOOK.read_text() == builder.build(), "run `python docs/build_notebook.py`"
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))


def test_every_block_of_the_page_is_a_cell() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    blocks = blocks_of(ROOT / "docs" / "tutorial.md")
    assert len(code) == 1 + len(blocks)
    for block, source in zip(blocks, code[1:], strict=True):
        shown = block.text.partition("\n")[2] if block.file else block.text
        assert shown.strip() in source
        assert source.startswith(f"%%writefile {block.file}\n") == bool(block.file)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    (tmp_path / "docs").mkdir()
    (tmp_path / "train").symlink_to(ROOT / "train")
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    text = "".join(cell.source for cell in notebook.cells)
    assert all(long in text for long in {**SMALLER, **QUICK}), "a number of the page changed: change it here too"
    for cell in notebook.cells:
        for long, short in {**SMALLER, **QUICK}.items():
            cell.source = cell.source.replace(long, short)
    notebook.cells.append(nbformat.v4.new_code_cell(CHECK))
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": tmp_path / "docs"}}).execute()
    assert (tmp_path / "runs" / "wine" / "loss" / "pipeline" / "model_index.json").is_file()


def test_the_words_about_the_size_of_things_are_right() -> None:
    """Numbers of the page that are no measurements."""
    from sklearn.datasets import load_wine

    inputs, labels = load_wine(return_X_y=True)
    assert (*inputs.shape, len(set(labels))) == (178, 13, 3)
    assert re.search(r"178 wines, 13 measurements, three growers", (ROOT / "docs" / "tutorial.md").read_text())
