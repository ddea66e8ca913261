"""Families of tasks: names, members, sizes read off networks, and the tasks of members themselves."""

import pytest
import torch

from g_pt.permutations import PermutationSpec
from g_pt.permutations.plans import kinds_of
from g_pt.tasks import get_family, get_task, is_family, is_registered, registered_task
from g_pt.tasks.family import parse_hidden
from g_pt.tasks.mlp import mlp


@pytest.fixture(scope="module")
def family():
    return get_family("digits[64-**-10]")


def test_a_member_is_the_task_of_its_sizes(family, generator):
    member = get_task("digits[64-16-10]")
    task, params = get_task("digits"), get_task("digits").init(3, generator)
    assert member is family.member((16,)) is registered_task("digits[64-16-10]")
    assert member.layout == task.layout
    assert all(torch.equal(a, b) for a, b in zip(member.evaluate(params).values(), task.evaluate(params).values()))
    deep = family.member((9, 7))
    assert deep.name == "digits[64-9-7-10]"
    assert [tuple(p.shape) for p in mlp((64, 9, 7, 10)).state_dict().values()] == list(deep.layout.shapes)
    assert deep.splits["train"] is family.member((5,)).splits["train"]  # the data are there once


def test_permutations_of_one_number_of_layers_are_derived_once_and_right(family):
    family.permutations((5, 6))
    shared = family.member((31, 7)).permutations
    derived = PermutationSpec.from_module(mlp((64, 31, 7, 10)), (64,))
    assert shared.to_json() == derived.to_json()


def test_kinds_of_a_family_are_those_of_all_its_members(family):
    kinds = family.kinds()
    assert kinds == {"weight[*,64]": 64, "bias[*]": 1, "weight[*,*]": 1, "weight[10,*]": 10, "bias[10]": 10}
    deepest = family.member((3, 4, 5, 6))
    assert kinds_of(deepest.layout, deepest.permutations) == kinds


def test_sizes_are_read_off_modules_and_state_dicts(family):
    for hidden in ((16,), (24, 12), (5, 5, 5)):
        network = mlp((64, *hidden, 10))
        assert family.hidden_of(network) == family.hidden_of(network.state_dict()) == hidden
    one = get_family("digits[64-*-10]")
    assert one.hidden_of(mlp((64, 9, 10))) == (9,)
    for network, words in (
        (mlp((64, 9, 12)), "'fc2.weight' must have shape (10, 9)"),
        (mlp((784, 9, 10)), "'fc1.weight' must have shape (9, 64)"),
        (torch.nn.Linear(64, 10), "no member"),
    ):
        with pytest.raises(ValueError) as caught:
            family.hidden_of(network)
        assert words in str(caught.value)
    with pytest.raises(ValueError, match="fc2.weight"):
        one.hidden_of(mlp((64, 9, 9, 10)))


def test_sizes_are_lists_or_drawn(generator):
    assert parse_hidden(["8", "24,12", "8"], generator) == [(8,), (24, 12)]
    drawn = parse_hidden(["8..64,4..5:40"], torch.Generator().manual_seed(0))
    assert drawn == parse_hidden(["8..64,4..5:40"], torch.Generator().manual_seed(0))
    assert len(drawn) > 20
    assert {width for pair in drawn for width in pair[1:]} == {4, 5}
    firsts = [pair[0] for pair in drawn]
    assert min(firsts) >= 8 and max(firsts) <= 64
    assert sum(first < 23 for first in firsts) > len(firsts) / 3  # log-uniform: half lie below the geometric mean


def test_wrong_names_and_sizes_are_refused_in_one_sentence(subtests, generator):
    for call, words in (
        (lambda: get_family("digits[64-*-12]"), "named digits[64-*-10]"),
        (lambda: get_family("digits[64-*-**-10]"), "named digits[64-*-10]"),
        (lambda: get_family("digits[64-*-10"), "named like digits[64-*-10]"),
        (lambda: get_family("nothing[64-*-10]"), "there is no task"),
        (lambda: get_family("quadratics[64-*-10]"), "no hidden widths"),
        (lambda: get_task("digits[64-x-10]"), "named like digits[64-24-10]"),
        (lambda: get_task("digits[64-*-10]"), "many sizes"),
        (lambda: get_task("digits[64-0-10]"), "from 1"),
        (lambda: get_family("digits[64-*-*-10]").member((5,)), "2 hidden layers"),
        (lambda: parse_hidden(["8;9"], generator), "must be like 16"),
    ):
        with subtests.test(words=words), pytest.raises(ValueError) as caught:
            call()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    assert is_family("digits[64-*-10]") and not is_family("digits[64-8-10]") and not is_family(None)
    assert is_registered("digits[64-8-10]") and not is_registered("other[64-8-10]")
