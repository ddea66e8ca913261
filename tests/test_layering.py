"""Folders import each other in one direction only, no files in a circle; files stay small."""

import ast
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("g_pt", "checkpoints_dataset", "rl_tasks", "train", "sample", "benchmarks")
MOST_LINES = 350
# from the top: a folder imports from its own and from lower floors, and not from its neighbours
FLOORS = (
    ("sample", "train", "benchmarks"),  # train_g_pt.py is gpt-train, launched from a clone
    ("g_pt.commands",),
    ("g_pt.report", "g_pt.training"),
    ("checkpoints_dataset", "g_pt.pictures"),
    ("g_pt.evaluation", "g_pt.learned_optimizers", "g_pt.learned_losses", "g_pt.sparsity", "g_pt.testing"),
    ("rl_tasks", "g_pt.reference"),
    ("g_pt.update_rules",),
    ("g_pt.model", "g_pt.in_context"),
    ("g_pt.tasks",),
    ("g_pt.permutations", "g_pt.hub"),
    ("g_pt.networks", "g_pt.command_line"),
    ("g_pt.files", "g_pt.runtime", "g_pt.evolution", "g_pt.lazy_names"),
)
HEIGHT = {folder: len(FLOORS) - number for number, floor in enumerate(FLOORS) for folder in floor}
FRONT_DOOR = "g_pt"  # its __init__ names what is inside, lazily: it may be asked from everywhere, for the version

Imports = dict[str, set[str]]  # module -> the modules of ours that it imports


def module_files(root: Path) -> dict[str, Path]:
    """All modules below the folders of ours."""
    paths = [path for folder in OURS for path in sorted((root / folder).rglob("*.py"))]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports_of(files: Mapping[str, Path]) -> Imports:
    """What each module imports of ours, anywhere in its file: in functions and for types only, too."""
    return {module: {name for name in imported_by(path, files) if name in files} for module, path in files.items()}


def imported_by(path: Path, files: Mapping[str, Path]) -> Iterator[str]:
    """Modules that a file names; one that is taken from its package counts as itself."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are spelled in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in files else str(node.module) for name in names)


def folder_of(module: str) -> str | None:
    """The folder of a floor that holds a module."""
    return next((folder for folder in HEIGHT if module == folder or module.startswith(folder + ".")), None)


def forbidden(imports: Imports) -> list[str]:
    """Imports that do not go down, and modules without a floor."""
    wrong = []
    for module, others in imports.items():
        if module == FRONT_DOOR:
            continue
        own = folder_of(module)
        if own is None:
            wrong.append(f"{module} is in no folder of FLOORS")
            continue
        for other in sorted(others - {FRONT_DOOR}):
            theirs = folder_of(other)
            if theirs is None or (theirs != own and HEIGHT[theirs] >= HEIGHT[own]):
                wrong.append(f"{module} must not import {other}")
    return wrong


def circles(imports: Imports) -> list[list[str]]:
    """Sets of modules that import each other, directly or by way of others (by Tarjan's algorithm)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_modules: list[str] = []
    found = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        open_modules.append(module)
        for other in sorted(imports[module]):
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in open_modules:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            start = open_modules.index(module)
            if len(open_modules) - start > 1:
                found.append(sorted(open_modules[start:]))
            del open_modules[start:]

    for module in imports:
        if module not in number:
            visit(module)
    return found


@pytest.fixture(scope="module")
def files() -> dict[str, Path]:
    return module_files(ROOT)


@pytest.fixture(scope="module")
def imports(files) -> Imports:
    return imports_of(files)


def test_imports_go_down(imports):
    assert forbidden(imports) == []


def test_no_files_import_each_other_in_a_circle(imports):
    assert circles(imports) == []


def test_the_house_has_a_few_modules_outside_its_rooms(files):
    assert len([path for path in files.values() if path.parent == ROOT / "g_pt"]) <= 5


def write(root: Path, **modules: str) -> Imports:
    """A small tree of modules; `__` in a name stands for a folder."""
    for name, text in modules.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return imports_of(module_files(root))


def test_the_test_sees_imports_that_go_up_or_aside_wherever_they_stand(tmp_path):
    imports = write(
        tmp_path,
        g_pt__networks__a="from g_pt.files import b\nimport torch\n",
        g_pt__files__b="def f():\n    from g_pt.networks.a import g\n",
        g_pt__report__c="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import g_pt.commands.d\n",
        g_pt__commands__d="from g_pt.report import c\nimport g_pt.networks.a\n",
        g_pt__hub__e="from g_pt.permutations.f import x\n",
        g_pt__permutations__f="",
        g_pt__stray="",
    )
    assert forbidden(imports) == [
        "g_pt.files.b must not import g_pt.networks.a",
        "g_pt.hub.e must not import g_pt.permutations.f",
        "g_pt.report.c must not import g_pt.commands.d",
        "g_pt.stray is in no folder of FLOORS",
    ]


def test_the_test_sees_circles_of_two_and_of_three_files(tmp_path):
    imports = write(
        tmp_path,
        g_pt__model__a="from g_pt.model.b import x\n",
        g_pt__model__b="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from g_pt.model import a\n",
        g_pt__tasks__c="import g_pt.tasks.d\n",
        g_pt__tasks__d="def f():\n    from g_pt.tasks.e import x\n",
        g_pt__tasks__e="from g_pt.tasks.c import x\nfrom g_pt.model.a import x\n",
        g_pt__tasks__f="from g_pt.tasks.c import x\n",
    )
    assert circles(imports) == [["g_pt.model.a", "g_pt.model.b"], ["g_pt.tasks.c", "g_pt.tasks.d", "g_pt.tasks.e"]]


def test_files_are_small_and_named_by_a_noun(files):
    every = [*files.values(), *sorted((ROOT / "tests").rglob("*.py"))]
    assert [str(path) for path in every if len(path.read_text().splitlines()) > MOST_LINES] == []
    assert [str(path) for path in every if path.name == "utils.py"] == []


def test_programs_do_not_shadow_modules():
    # a program run by path has its folder first on sys.path: a name like `g_pt` would hide the library
    programs = [path.stem for folder in ("train", "sample", "benchmarks") for path in (ROOT / folder).glob("*.py")]
    assert len(programs) > 10
    assert [name for name in programs if name != "__init__" and find_spec(name) is not None] == []
