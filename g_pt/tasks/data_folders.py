"""Where files of data sets are looked for. Imports no torch, so that commands can set it before anything heavy."""

from __future__ import annotations

import os
from pathlib import Path

DATA_DIR_VARIABLE = "G_PT_DATA_DIR"
DEBIAN_FOLDER = Path("/usr/share/datasets")


def use_data_dir(folder: Path | None) -> None:
    """Look for data sets in this folder first, in this process and those it starts; None changes nothing.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    if folder is None:
        return
    if not folder.is_dir():
        raise NotADirectoryError(f"--data-dir must be a folder that holds data sets, got {folder}")
    os.environ[DATA_DIR_VARIABLE] = str(folder)


def candidate_folders(name: str) -> list[Path]:
    """Folders that may hold the files of a data set, in the order in which they are tried."""
    folders = [DEBIAN_FOLDER / name]
    if given := os.environ.get(DATA_DIR_VARIABLE):
        folders = [Path(given) / name, Path(given), *folders]
    return folders
