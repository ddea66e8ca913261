"""The folders import each other in one direction only, and files stay small."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# importer -> what of ours it may import; the commands are the top floor of g_pt
ARROWS = {
    "g_pt": {"g_pt"},
    "checkpoints_dataset": {"checkpoints_dataset", "g_pt"},
    "rl_tasks": {"rl_tasks", "g_pt"},
    "g_pt/commands": {"checkpoints_dataset", "g_pt", "rl_tasks"},
    "train": {"checkpoints_dataset", "g_pt"},
    "benchmarks": {"benchmarks", "checkpoints_dataset", "g_pt", "rl_tasks"},
}
OURS = {"g_pt", "checkpoints_dataset", "rl_tasks", "train", "sample", "benchmarks", "tests"}
FILES = [path for folder in OURS for path in sorted((ROOT / folder).rglob("*.py"))]


def floor(path: Path) -> str:
    relative = path.relative_to(ROOT).as_posix()
    return max((name for name in ARROWS if relative.startswith(name + "/")), key=len)


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are spelled in full"
            modules.add(node.module or "")
    return modules


@pytest.mark.parametrize("path", [p for p in FILES if "tests" not in p.parts], ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path) -> None:
    for module in imported_modules(path):
        package = module.partition(".")[0]
        if package in OURS:
            assert package in ARROWS[floor(path)], f"{path} must not import {module}"
        if module.startswith("g_pt.commands"):
            assert floor(path) in {"g_pt/commands", "train", "benchmarks"}, f"{path} must not import a command"


def test_the_arrow_test_sees_a_forbidden_import(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("def f():\n    from train.train_g_pt import main\n    import checkpoints_dataset.store\n")
    assert imported_modules(file) == {"train.train_g_pt", "checkpoints_dataset.store"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_small_and_have_a_noun(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 350
    assert path.name != "utils.py"


@pytest.mark.parametrize(
    "program", [p.stem for folder in ("train", "benchmarks") for p in (ROOT / folder).glob("*.py")]
)
def test_programs_do_not_shadow_modules(program: str) -> None:
    # a program run by path has its folder first on sys.path: a name like `g_pt` would hide the library
    assert program == "__init__" or find_spec(program) is None
