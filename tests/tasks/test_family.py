"""Families of tasks: names, members, sizes read off networks, and the tasks of members themselves."""

import re
from functools import cached_property

import pytest
import torch

from g_pt.networks.modules import write_module
from g_pt.permutations import PermutationSpec
from g_pt.permutations.plans import kinds_of
from g_pt.tasks import get_family, get_task, is_family, is_registered, register_task, registered_task
from g_pt.tasks.classification import LabelledExamples
from g_pt.tasks.cnn import CNNTask
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
    for name, values in task.evaluate(params).items():
        assert torch.equal(member.evaluate(params)[name], values)
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
        (torch.nn.Linear(64, 10), "'fc1.weight' of shape (16, 64) is wanted but missing"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            family.hidden_of(network)
    with pytest.raises(ValueError, match=r"fc2\.weight"):
        one.hidden_of(mlp((64, 9, 9, 10)))


class RandomImages(CNNTask):
    name = "random-images"
    input_shape = (2, 6, 6)

    @cached_property
    def splits(self):
        images = torch.randn(40, *self.input_shape, generator=torch.Generator().manual_seed(5))
        return dict.fromkeys(("train", "validation", "test"), LabelledExamples(images, torch.arange(40) % 10))


def test_convolutions_and_policies_have_members_too(generator):
    register_task("random-images", f"{__file__}:RandomImages")
    images, policies = get_family("random-images[2-*-*-10]"), get_family("cartpole[4-*-*-2]")
    assert images.default == (16, 32)
    assert policies.default == (32, 32)
    kinds = images.kinds()
    assert kinds == {"weight[*,2,3,3]": 18, "weight[*,*,3,3]": 9, "weight[10,*]": 10, "bias[10]": 10}
    for family, hidden in ((images, (5, 7)), (policies, (6, 9))):
        member = family.member(hidden)
        params = member.init(2, generator)
        assert family.hidden_of(member.network()) == hidden
        values = member.evaluate(params, "validation")
        assert all(v.shape == (2,) and v.isfinite().all() for v in values.values())
        drawn = member.permutations.draw(member.layout, 2, generator)
        permuted = member.permutations.permute(params, member.layout, drawn)
        assert not torch.equal(permuted, params)
        for name, value in member.evaluate(permuted, "validation").items():
            torch.testing.assert_close(value, values[name], rtol=1e-4, atol=1e-4)
    member = images.member((5, 7))
    params = member.init(3, generator)
    inputs = member.splits["test"].inputs
    outputs = member.forward(member.layout.unflatten(params), inputs)
    module = member.network()
    write_module(module, params[1], member.layout)
    torch.testing.assert_close(outputs[1].T, module(inputs), rtol=1e-4, atol=1e-5)


def test_sizes_are_lists_or_drawn(generator):
    assert parse_hidden(["8", "24,12", "8"], generator) == [(8,), (24, 12)]
    drawn = parse_hidden(["8..64,4..5:40"], torch.Generator().manual_seed(0))
    assert drawn == parse_hidden(["8..64,4..5:40"], torch.Generator().manual_seed(0))
    assert len(drawn) > 20
    assert {width for pair in drawn for width in pair[1:]} == {4, 5}
    firsts = [pair[0] for pair in drawn]
    assert set(firsts) <= set(range(8, 65))
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
        with subtests.test(words=words), pytest.raises(ValueError, match=f"^[^\n]*{re.escape(words)}[^\n]*$"):
            call()
    assert [is_family(name) for name in ("digits[64-*-10]", "digits[64-8-10]", None)] == [True, False, False]
    assert [is_registered(name) for name in ("digits[64-8-10]", "other[64-8-10]")] == [True, False]
