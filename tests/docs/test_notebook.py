"""The notebook is the tutorial's page, and runs from its first to its last cell, scaled down."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from dataset_fixtures import environment
from documents import ROOT, blocks_of, program_module
from tutorial_sizes import SMALLER, scaled

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
# the report is that of a few networks here, and the training has one thread and measures nothing on its way
QUICK = {
    "--networks 64": "--networks 8 --quick --sections prompting",
    "optimizer: {": "progress: {evaluate_every: 0}\noptimizer: {cpu_threads: 1, mixed_precision: 'no', ",
}
CHECK = """
assert wine_loss < 0.5 * fresh_loss, (wine_loss, fresh_loss)
assert optimizer.num_kept >= 1
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
    for cell in notebook.cells:
        cell.source = scaled(cell.source)
        for long, short in QUICK.items():
            cell.source = cell.source.replace(long, short)
    assert not any(long in cell.source for cell in notebook.cells for long in SMALLER)
    notebook.cells.append(nbformat.v4.new_code_cell(CHECK))
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": tmp_path / "docs"}}).execute()
    assert (tmp_path / "runs" / "wine" / "loss" / "pipeline" / "model_index.json").is_file()
