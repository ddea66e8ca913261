"""Commands answer `--help` before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "diffusers", "accelerate", "matplotlib", "sklearn", "pyarrow")
COMMANDS = {
    "gpt-harvest": ["-m", "g_pt.commands.harvest"],
    "gpt-sample": ["-m", "g_pt.commands.sample"],
    "gpt-evaluate": ["-m", "g_pt.commands.evaluate"],
    "gpt-import": ["-m", "g_pt.commands.import_checkpoints"],
    "gpt-push": ["-m", "g_pt.commands.push"],
    "gpt-dataset": ["-m", "g_pt.commands.dataset"],
    "gpt-demo": ["-m", "g_pt.commands.demo"],
    "gpt-train": ["-m", "g_pt.commands.train"],
    "train_g_pt.py": [str(ROOT / "train" / "train_g_pt.py")],
}


def heavy_imports(arguments: list[str]) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, cwd=ROOT, check=True
    )
    names = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    return names & set(HEAVY)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command: str) -> None:
    assert heavy_imports([*COMMANDS[command], "--help"]) == set()


@pytest.mark.parametrize("module", ["g_pt", "checkpoints_dataset", "g_pt.tasks"])
def test_importing_a_package_imports_nothing_heavy(module: str) -> None:
    assert heavy_imports(["-c", f"import {module}"]) == set()


def test_public_names_can_all_be_imported() -> None:
    import checkpoints_dataset
    import g_pt

    for package in (g_pt, checkpoints_dataset):
        for name in package.__all__:
            assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="ParameterUpdatePipeline"):
        _ = g_pt.Pipeline
