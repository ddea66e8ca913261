"""Writes docs/tutorial.ipynb from docs/tutorial.md.

    python docs/build_notebook.py

Text becomes Markdown cells; every block becomes a cell that writes a file, runs commands, or is Python. There are no
outputs. A test compares the notebook with what this makes, and runs it (tests/docs/test_tutorial.py).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE, NOTEBOOK = ROOT / "docs" / "tutorial.md", ROOT / "docs" / "tutorial.ipynb"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# ([\w/-]+\.(?:py|yaml))\n")


def build() -> str:
    """The notebook as JSON."""
    parts = BLOCK.split(PAGE.read_text())  # text, then a block's language, the block, text again
    cells = [cell("code", "# from the folder of this notebook to the repository's\n%cd -q ..")]
    for text, language, block in zip(parts[::3], [*parts[1::3], ""], [*parts[2::3], ""], strict=True):
        if text.strip():
            cells.append(cell("markdown", text))
        if block:
            cells.append(cell("code", as_code(language, block)))
    for number, made in enumerate(cells):
        made["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def cell(kind: str, source: str) -> dict[str, Any]:
    """A cell without outputs."""
    made: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": source.strip().splitlines(keepends=True)}
    return made | {"execution_count": None, "outputs": []} if kind == "code" else made


def as_code(language: str, block: str) -> str:
    """A block of the page as a cell: a file is written, commands go to bash, Python stays as it is."""
    if file := FILE.match(block):
        return f"%%writefile {file[1]}\n{block.removeprefix(file[0])}"
    return {"python": "", "bash": "%%bash -e\n"}[language] + block


if __name__ == "__main__":
    NOTEBOOK.write_text(build())
