"""What every update rule promises, G.pt included, and what the optimizers among them compute."""

from __future__ import annotations

import dataclasses
from itertools import islice
from typing import Any

import pytest
import torch
from builders import build_pipeline, randomise
from torch import nn

from g_pt.report.optimizers import rivals
from g_pt.tasks import get_task
from g_pt.tasks.quadratics import Quadratics
from g_pt.tasks.supervised import SupervisedTask
from g_pt.testing import check_rule
from g_pt.update_rules.base import Cost, UpdateRule
from g_pt.update_rules.first_order import SGD
from g_pt.update_rules.gradient import GradientRule, SGDRule
from g_pt.update_rules.lookahead import Lookahead
from g_pt.update_rules.mini_batches import mini_batches
from g_pt.update_rules.problem import TaskProblem, follow
from g_pt.update_rules.prompted import PromptRule, SavedPromptRule
from g_pt.update_rules.registry import RULES, make_rule, rule_name

TASK = get_task("digits")
NUM_STEPS = 3


def prompt_rule() -> PromptRule:
    pipeline = build_pipeline(TASK)
    randomise(pipeline.transformer, scale=0.05)
    return PromptRule(pipeline, 0.5, num_inference_steps=2)


def followed(rule: UpdateRule[Any], starts: torch.Tensor, seed: int = 0, task=TASK) -> list[torch.Tensor]:
    path = follow(rule, task, starts, torch.Generator().manual_seed(seed))
    return [params for params, _ in islice(path, NUM_STEPS)]


# what is checked of a rule beside its defaults, in the few steps of a check
BESIDE: dict[str, list[dict[str, Any]]] = {
    "g-pt": [{"num_inference_steps": 1}],
    "lars": [{"warm_up_steps": 2, "batch_scaling": "linear"}],
    "foof": [{"inverse_every": 3, "seen_steps": 2}],
    "mini-block-fisher": [{"block_size": 7}],
    "m-fac": [{"window": 2}],  # full, and its oldest replaced
    "lookahead": [{"every": 2}, {"every": 2, "inner": make_rule("foof"), "reset": True}],
    "dynamic-modes": [{"history": 2, "spacing": 1, "ahead": 2}],
}
OF_GRADIENTS = [name for name in RULES if name not in ("g-pt", "foof", "kfac")]


@pytest.mark.parametrize("name", RULES)
def test_a_rule_keeps_its_promises(name: str, subtests) -> None:
    rule = make_rule(name)
    assert rule_name(rule) == name
    assert dataclasses.is_dataclass(rule)
    for settings in ([] if name == "g-pt" else [{}]) + BESIDE.get(name, []):
        changed = dataclasses.replace(rule, **settings)
        with subtests.test(settings=str(settings)):
            if name in OF_GRADIENTS and "inner" not in settings:
                constant = {"schedule": "constant"} if hasattr(rule, "schedule") else {}
                check_rule(dataclasses.replace(changed, **constant), Quadratics())
            check_rule(changed, TASK)


def test_a_setting_of_each_network_is_that_of_each_alone(subtests) -> None:
    starts = TASK.init(2, torch.Generator().manual_seed(1))
    for rule, name in (
        *((make_rule(rule), "damping") for rule in ("foof", "kfac", "mini-block-fisher", "m-fac")),
        (Lookahead(SGDRule(), every=2), "alpha"),
    ):
        constant = {"schedule": "constant"}
        inner = {"inner": dataclasses.replace(rule.inner, **constant)} if name == "alpha" else constant
        rule = dataclasses.replace(rule, **inner)
        with subtests.test(rule=rule.name):
            together = followed(dataclasses.replace(rule, **{name: (0.1, 0.9)}), starts)[-1]
            for i, value in enumerate((0.1, 0.9)):
                alone = followed(dataclasses.replace(rule, **{name: value}), starts[i : i + 1])[-1][0]
                torch.testing.assert_close(together[i], alone, rtol=1e-3, atol=1e-4)
            assert (together[0] - starts[0] - (together[1] - starts[1])).abs().max() > 1e-3


def test_the_rule_of_a_pipeline_keeps_its_promises() -> None:
    check_rule(prompt_rule(), TASK)


def test_a_range_of_learning_rates_is_drawn_by_the_generator() -> None:
    check_rule(SGDRule(learning_rate_range=(0.01, 0.1)), Quadratics())


class Drawing(GradientRule):
    """Adds noise to every network, from the global generator."""

    def step(self, params, state, problem):
        return {name: tensor + 0.01 * torch.randn(1) for name, tensor in params.items()}, state


class Remembering(GradientRule):
    """Keeps its state in itself."""

    taken: list[int] = []  # noqa: RUF012

    def step(self, params, state, problem):
        self.taken.append(1)
        params, state = super().step(params, state, problem)
        return {name: tensor * (1 - 0.1 / len(self.taken)) for name, tensor in params.items()}, state


class Averaging(GradientRule):
    """Lets networks meet."""

    def step(self, params, state, problem):
        params, state = super().step(params, state, problem)
        return {name: tensor.lerp(tensor.nanmean(dim=0, keepdim=True), 0.1) for name, tensor in params.items()}, state


class Silent(GradientRule):
    """Trains behind the problem's back."""

    def step(self, params, state, problem):
        return {name: 0.9 * tensor for name, tensor in params.items()}, state


class Standing(GradientRule):
    """Does nothing."""

    def step(self, params, state, problem):
        problem.gradients(params)
        return params, state


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Drawing, "a step must not draw from the global generator"),
        (Remembering, "leave nothing in the rule"),
        (Averaging, "must not depend on others"),
        (Silent, "must ask the problem"),
        (Standing, "every network must move"),
    ],
)
def test_broken_promises_are_named(kind: type[GradientRule], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_rule(kind(SGD(), 0.1), Quadratics())


@pytest.mark.parametrize("name", [name for name in rivals() if name != "STAR"])
def test_networks_train_as_torch_optim_trains_each_alone(name: str) -> None:
    starts = TASK.init(2, torch.Generator().manual_seed(1))
    ours = followed(dataclasses.replace(rivals()[name], learning_rate=0.01), starts)[-1]
    train = TASK.splits["train"]
    for start, end in zip(starts, ours, strict=True):
        module = TASK.network()
        module.load_state_dict(TASK.layout.unflatten(start))
        optimizer = {
            "SGD": lambda p: torch.optim.SGD(p, 0.01),
            "Momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
            "Nesterov": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True),
            "Adam": lambda p: torch.optim.Adam(p, 0.01),
            "AdamW": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.01),
            "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01),
        }[name](module.parameters())
        batches = mini_batches(len(train), 64, torch.Generator().manual_seed(0))
        for examples in islice(batches, NUM_STEPS):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(train.inputs[examples]), train.labels[examples]).backward()
            optimizer.step()
        expected = TASK.layout.flatten(dict(module.state_dict()))
        torch.testing.assert_close(end, expected, rtol=1e-3, atol=2e-5)


def test_each_network_has_its_own_learning_rate() -> None:
    starts = TASK.init(1, torch.Generator().manual_seed(1)).repeat(3, 1)
    rates = (0.0, 0.01, 0.1)
    stacked = followed(SGDRule(learning_rate=rates, schedule="constant"), starts)[-1]
    assert torch.equal(stacked[0], starts[0])
    for rate, end in zip(rates[1:], stacked[1:], strict=True):
        alone = followed(SGDRule(learning_rate=rate, schedule="constant"), starts[:1])[-1][0]
        torch.testing.assert_close(end, alone)


def test_a_prompt_rule_feeds_its_update_back() -> None:
    rule, seeded = prompt_rule(), torch.Generator().manual_seed(0)
    starts = TASK.init(2, torch.Generator().manual_seed(1))
    first = rule.pipeline(starts, 0.5, num_inference_steps=2, generator=seeded).params
    second = rule.pipeline(first, 0.5, num_inference_steps=2, generator=seeded).params
    assert torch.equal(followed(rule, starts)[1], second)


def test_dropout_follows_the_generator_and_leaves_the_global_one_alone() -> None:
    class Dropping(type(TASK)):
        forward = SupervisedTask.forward  # the task's own knows no dropout

        def network(self) -> nn.Module:
            return nn.Sequential(nn.Linear(64, 4), nn.Dropout(), nn.ReLU(), nn.Linear(4, 10))

        init = SupervisedTask.init

    task = Dropping()
    rule, starts = SGDRule(schedule="constant"), task.init(2, torch.Generator().manual_seed(0))
    before = torch.random.get_rng_state()
    first = followed(rule, starts, task=task)[-1]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(followed(rule, starts, task=task)[-1], first)


def test_schedules_fall_from_the_base_rate_to_zero() -> None:
    cosine = [SGDRule(schedule="cosine").factor(step, 4) for step in range(5)]
    assert cosine == pytest.approx([1, 0.8536, 0.5, 0.1464, 0], abs=1e-4)
    assert [SGDRule(schedule="linear").factor(step, 4) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    assert SGDRule(schedule="constant").factor(7, None) == 1
    with pytest.raises(ValueError, match="'cosine' must know its last step"):
        followed(SGDRule(), TASK.init(1, torch.Generator()))


@pytest.mark.parametrize("steps", [[], [-1], [3, 2], [1, 1]])
def test_steps_that_do_not_rise_are_refused(steps: list[int]) -> None:
    with pytest.raises(ValueError, match="steps must rise"):
        follow(SGDRule(), TASK, TASK.init(1, torch.Generator()), torch.Generator(), steps=steps)


def test_costs_are_counted_for_each_network() -> None:
    task, starts = Quadratics(), Quadratics().init(5, torch.Generator().manual_seed(0))
    [(_, cost)] = follow(make_rule("adam"), task, starts, torch.Generator(), steps=[7])
    assert (cost.gradients, cost.losses, cost.metrics, cost.model_passes) == (7, 0, 0, 0)
    assert cost.state_bytes == 2 * 4 * task.layout.num_params  # two means in float32
    [(_, cost)] = follow(prompt_rule(), TASK, TASK.init(2, torch.Generator()), torch.Generator(), steps=[3])
    assert (cost.gradients, cost.metrics, cost.model_passes, cost.state_bytes) == (0, 3, 6, 0)
    assert Cost(1, 2, 3, 4, 5.0, 6.0) + Cost(10, 20, 30, 40, 50.0, 4.0) == Cost(11, 22, 33, 44, 55.0, 6.0)


def test_a_saved_model_is_loaded_for_its_own_networks_only() -> None:
    with pytest.raises(ValueError, match=r"model 'digits-loss' changes networks of .* task 'moons'"):
        SavedPromptRule().init({}, get_task("moons"))


def test_a_task_without_training_losses_has_no_gradients() -> None:
    task = get_task("cartpole")
    with pytest.raises(ValueError, match="'cartpole' has no training loss"):
        next(follow(SGDRule(), task, task.init(1, torch.Generator()), torch.Generator(), steps=[1]))


def test_the_problem_gives_one_mini_batch_for_a_step_and_others_to_losses() -> None:
    task = Quadratics(noise=1.0)
    params = task.layout.unflatten(task.init(2, torch.Generator().manual_seed(0)))
    problem = TaskProblem(task, torch.Generator().manual_seed(1), batch_size=4)
    losses, grads = problem.gradients(params)
    again, _ = problem.gradients(params)
    assert torch.equal(losses, again)
    torch.testing.assert_close(grads["point"], torch.autograd.functional.jacobian(
        lambda x: task.training_losses({"point": x}, problem.examples()).sum(), params["point"]
    ))  # fmt: skip
    others = problem.losses(params, 3)
    assert others.shape == (2,)
    assert not torch.equal(problem.losses(params, 3), others)
    assert torch.equal(problem.metric(params, "loss"), task.evaluate(params["point"], "validation")["loss"])
    assert problem.cost == Cost(gradients=2, losses=6, metrics=1)
    problem.step = 1
    assert not torch.equal(problem.gradients(params)[0], losses)
