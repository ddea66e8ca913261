"""The built wheel holds the library, the bundled models and nothing else, and works from another directory."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = out.glob("*.whl")
    return file


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_the_bundled_models(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {
        "g_pt",
        "checkpoints_dataset",
        "rl_tasks",
    }
    presets = {path.name for path in (ROOT / "train" / "presets").glob("*.yaml")}
    assert {name.rpartition("/")[2] for name in names if name.startswith("g_pt/presets/")} == presets
    for expected in ("g_pt/py.typed", "checkpoints_dataset/py.typed", "g_pt/bundled/digits-loss/model_index.json"):
        assert expected in names


@pytest.mark.slow
def test_the_wheel_works_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import g_pt, checkpoints_dataset; from g_pt.commands.sample import main; "
        "print(g_pt.__file__); main(['--prompt-loss', '0.5', '--num-inference-steps', '2'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert str(site) in run.stdout
    assert (tmp_path / "updated.safetensors").is_file()


def test_the_installed_training_knows_its_presets(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    run = subprocess.run(
        [sys.executable, "-m", "g_pt.commands.train", "--preset", "fashion-mnist", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "COLUMNS": "120"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "--dataset PATH" in run.stdout
    shown = re.sub(r"[\s│]+", " ", run.stdout)
    assert "(default: runs/fashion-mnist/checkpoints)" in shown
    assert "usage: gpt-train" in run.stdout
