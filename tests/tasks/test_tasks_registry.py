import subprocess
import sys

import pytest
import torch
from user_task_files import write_batchnorm_task

from g_pt.tasks import get_task, register_task, registered_task, registry, task_names
from g_pt.tasks.base import SPLITS, check_split
from g_pt.tasks.digits import Digits


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))


def test_every_name_makes_a_task_of_that_name():
    for name in task_names():
        assert get_task(name).name == name


def test_an_unknown_name_lists_the_tasks_and_guesses_the_slip():
    with pytest.raises(ValueError, match=r"no task 'digit'; tasks are \[.*'digits'.*\]\. Did you mean 'digits'\?"):
        get_task("digit")
    with pytest.raises(ValueError, match=r"'digits', .*\]\. Name a task of your own by its class: --task my_task\.py:"):
        get_task("zzz")


def test_a_registered_class_is_made():
    registry._TASKS.pop("digits")
    register_task("digits", "g_pt.tasks.digits:Digits")
    assert "digits" in task_names()
    assert isinstance(get_task("digits"), Digits)


def test_a_task_registered_under_another_name_is_refused_since_files_would_not_lead_back_to_it():
    register_task("again", "g_pt.tasks.digits:Digits")
    with pytest.raises(ValueError, match="registered as 'again', but its `name` is 'digits'"):
        get_task("again")


def test_a_file_that_ends_the_program_is_refused_with_its_line(tmp_path):
    (tmp_path / "ends.py").write_text("import sys\nsys.exit('usage: ends.py FILE')\n")
    with pytest.raises(ValueError, match=r"SystemExit: usage: ends.py FILE \(line 2\)"):
        get_task(f"{tmp_path}/ends.py:Task")


def test_registering_twice_is_fine_and_another_class_is_refused():
    register_task("digits", "g_pt.tasks.digits:Digits")
    with pytest.raises(ValueError, match="already registered as g_pt"):
        register_task("digits", "other:Digits")
    assert isinstance(get_task("digits"), Digits)


@pytest.mark.parametrize("target", ["module", "module:", ":Class"])
def test_a_target_without_module_or_class_is_refused(target):
    with pytest.raises(ValueError, match=rf"package\.module:Class, got '{target}'"):
        register_task("new", target)


def test_a_task_may_be_named_by_its_module():
    assert isinstance(get_task("g_pt.tasks.digits:Digits"), Digits)


def test_a_file_is_imported_once_and_its_task_is_known_by_name_afterwards(tmp_path, monkeypatch):
    write_batchnorm_task(tmp_path)
    monkeypatch.chdir(tmp_path)
    first = get_task("my_task.py:Blobs")
    assert first.name == "blobs"
    monkeypatch.chdir("/")  # the relative path was made absolute
    assert type(get_task("blobs")) is type(first)
    assert type(get_task(f"{tmp_path}/../{tmp_path.name}/my_task.py:Blobs")) is type(first)
    assert "my_task" not in sys.modules, "a user's own module of that name stays importable"


def test_two_files_of_one_name_are_two_modules_and_their_tasks_cannot_share_a_name(tmp_path):
    targets = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        targets.append(write_batchnorm_task(tmp_path / folder))
    get_task(targets[0])
    with pytest.raises(
        ValueError, match=r"'blobs' is already registered as .*/a/my_task\.py:Blobs; .*change the `name`"
    ):
        get_task(targets[1])
    file = tmp_path / "b" / "my_task.py"
    file.write_text(file.read_text().replace('"blobs"', '"others"'))
    with pytest.raises(ValueError, match="already registered"):
        get_task(targets[1])  # imported once


BROKEN = {
    "x = 1 / 0": r"broken\.py cannot be imported: ZeroDivisionError: division by zero \(line 1\)",
    "def f(:": r"broken\.py cannot be imported: SyntaxError",
    "import no_such_module": r"No module named 'no_such_module'.*put it on PYTHONPATH",
    "from g_pt import Task": r"broken\.py has no 'Mine'; the tasks in it are \[\]",
    "from g_pt import Task\nfrom g_pt.tasks.digits import Digits": r"the tasks in it are \['Digits'\]",
    "Mine = 3": r"must be a class derived from g_pt\.Task, got 3",
    "class Mine: pass": r"must be a class derived from g_pt\.Task",
    "from g_pt.tasks.classification import ClassificationTask as Mine": r"is not complete: define \['network'\]",
    "from g_pt.tasks.digits import Digits\nclass Mine(Digits):\n  def __init__(self, seed): ...": (
        r"must be made without arguments \(missing a required argument: 'seed'\)"
    ),
    "from g_pt.tasks.digits import Digits\nclass Mine(Digits): name = 'a:b'": r"without colon .*, got 'a:b'",
    "from g_pt.tasks.digits import Digits\nclass Mine(Digits): name = None": r"must have a `name`.*, got None",
    "from g_pt.tasks.digits import Digits\nclass Mine(Digits): pass": r"already registered.*change the `name`",
}


@pytest.mark.parametrize("code", BROKEN)
def test_a_file_that_defines_no_task_says_why(tmp_path, code):
    (tmp_path / "broken.py").write_text(code)
    before = dict(registry._TASKS)
    for _ in range(2):  # a failed import leaves nothing behind that a second one would take for a module
        with pytest.raises(ValueError, match=BROKEN[code]):
            get_task(f"{tmp_path}/broken.py:Mine")
    assert before == registry._TASKS


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ("nowhere/mine.py:Mine", FileNotFoundError, r"there is no file /.*/nowhere/mine\.py; .*path/to/file\.py:Class"),
        ("no_package.mine:Mine", ValueError, r"'no_package\.mine' cannot be imported.*PYTHONPATH, or name the file"),
        ("g_pt.networks.metrics:Metric", ValueError, r"must be a class derived from g_pt\.Task"),
        ("mine.py:", ValueError, r"named path/to/file\.py:Class or package\.module:Class, got 'mine\.py:'"),
        ("./mine:Mine", FileNotFoundError, r"there is no file /.*/mine"),
    ],
)
def test_a_target_that_is_not_there_is_named(target, kind, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message):
        get_task(target)


def test_a_name_from_a_file_never_runs_code(tmp_path):
    target = write_batchnorm_task(tmp_path)
    for name in (target, "g_pt.tasks.digits:Digits", "blobs"):
        with pytest.raises(ValueError, match="there is no task"):
            registered_task(name)
    get_task(target)
    assert registered_task("blobs").name == "blobs"


@pytest.mark.parametrize("module", ["g_pt.tasks.registry", "g_pt.files.config"])
def test_names_and_settings_are_read_without_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_metric_is_found_by_name_and_an_unknown_one_lists_what_exists(digits):
    assert digits.metric("loss").unit == "nats"
    with pytest.raises(ValueError, match=r"'digits' has no metric 'accuracy'; it has \['error', 'loss'\]"):
        digits.metric("accuracy")


def test_the_layout_of_a_task_is_that_of_its_network(digits):
    assert digits.layout.flatten(digits.network().state_dict()).shape == (digits.layout.num_params,)


def test_splits():
    for split in SPLITS:
        check_split(split)
    with pytest.raises(ValueError, match=r"\['train', 'validation', 'test'\], got 'valid'"):
        check_split("valid")


def test_a_task_cannot_evaluate_on_a_split_that_does_not_exist(digits):
    with pytest.raises(ValueError, match="got 'valid'"):
        digits.evaluate(torch.zeros(1, digits.layout.num_params), "valid")
