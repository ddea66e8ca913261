import subprocess
import sys

import pytest
import torch

from g_pt.tasks import get_task, register_task, registry, task_names
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
    with pytest.raises(ValueError, match=r"'mnist'\]\.$"):
        get_task("zzz")


def test_a_registered_class_is_made():
    register_task("again", "g_pt.tasks.digits:Digits")
    assert "again" in task_names()
    assert isinstance(get_task("again"), Digits)


def test_registering_twice_is_fine_and_another_class_is_refused():
    register_task("digits", "g_pt.tasks.digits:Digits")
    with pytest.raises(ValueError, match="already registered as g_pt"):
        register_task("digits", "other:Digits")
    assert isinstance(get_task("digits"), Digits)


def test_a_target_without_class_is_refused():
    with pytest.raises(ValueError, match=r"'package\.module:Class', got 'module'"):
        register_task("new", "module")


@pytest.mark.parametrize("module", ["g_pt.tasks.registry", "g_pt.config_files"])
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
