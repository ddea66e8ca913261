"""Weights on disk, what is refused of them, and learned optimizers as rules and in a loop of one's own."""

from __future__ import annotations

import json
from itertools import islice

import pytest
import torch
from safetensors.torch import save_file

from g_pt import LearnedOptimizer
from g_pt.learned_optimizers.lstm import Lstm
from g_pt.learned_optimizers.mlp import SmallFc, Star
from g_pt.learned_optimizers.rules import StarRule
from g_pt.learned_optimizers.trained import KEY, TrainedOptimizer, load_trained, save_trained
from g_pt.networks.modules import module_params, write_module
from g_pt.tasks import get_task
from g_pt.update_rules.gradient import AdamRule
from g_pt.update_rules.problem import TaskProblem, follow
from g_pt.update_rules.registry import rule_settings


def saved(path, learned=None):
    learned = learned or Star(nominal_rate=0.02)
    weights = learned.init(torch.Generator().manual_seed(0))
    weights += 0.05 * torch.randn(len(weights), generator=torch.Generator().manual_seed(1))
    save_trained(path, learned, weights, {"horizon": 7})
    return str(path), learned, weights


def test_weights_come_back_with_their_settings(tmp_path, subtests) -> None:
    for learned in (Star(nominal_rate=0.02, compile=True), SmallFc(step=0.1), Lstm(width=3)):
        path, _, weights = saved(tmp_path / "a.safetensors", learned)
        with subtests.test(learned=str(learned)):
            found, again, training = load_trained(path)
            assert found == (Star(nominal_rate=0.02) if isinstance(learned, Star) else learned)  # how, not what
            assert torch.equal(again, weights)
            assert training == {"horizon": 7}


def test_what_is_no_learned_optimizer_is_refused_in_a_sentence(tmp_path, subtests) -> None:
    facts = {"name": "small-fc", "step": 0.01, "training": {}}
    cases = {
        "another optimizer's weights": (facts, torch.zeros(207), "197 finite weights for its small-fc"),
        "not finite": (facts, torch.full((197,), torch.nan), "197 finite weights"),
        "another version": (facts | {"momentum": 1.0}, torch.zeros(197), "there is no setting 'momentum'"),
        "an unknown name": (facts | {"name": "adam"}, torch.zeros(197), "there is no 'adam'"),
        "no settings": (None, torch.zeros(197), "and its settings, it does not"),
        "no JSON": ("{", torch.zeros(197), "is damaged"),
    }
    for what, (wrong, weights, message) in cases.items():
        text = wrong if isinstance(wrong, str) else json.dumps(wrong)
        save_file({"weights": weights}, tmp_path / "w.safetensors", None if wrong is None else {KEY: text})
        with subtests.test(what=what), pytest.raises(ValueError, match=message):
            load_trained(str(tmp_path / "w.safetensors"))
    with pytest.raises(FileNotFoundError, match="neither a file nor a bundled learned optimizer"):
        load_trained("stra")


def test_a_rule_names_its_weights_and_needs_no_learning_rate(tmp_path) -> None:
    path, learned, weights = saved(tmp_path / "a.safetensors")
    rule, task = StarRule(optimizer=TrainedOptimizer(path)), get_task("moons")
    assert rule_settings(rule)["optimizer"] == {"weights": path}
    starts = task.init(2, torch.Generator().manual_seed(0))
    found, _ = next(islice(follow(rule, task, starts, torch.Generator().manual_seed(1)), 2, None))
    params, state = task.layout.unflatten(starts), None
    optimizer = learned.optimizer(weights)
    problem = TaskProblem(task, torch.Generator().manual_seed(1))
    state = optimizer.init(params)
    for problem.step in range(3):
        losses, grads = problem.gradients(params)
        params, state = optimizer.update(params, grads, losses, state, 1.0)
    torch.testing.assert_close(found, task.layout.flatten(params))


def loop(module, optimizer, task, steps):
    inputs, labels = task.examples("train").inputs[:50], task.examples("train").labels[:50]
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(inputs), labels).backward()
        optimizer.step()


def test_a_module_of_ones_own_is_trained_as_by_the_rule_and_goes_on_from_its_state(tmp_path, subtests) -> None:
    task = get_task("moons")
    start = task.init(1, torch.Generator().manual_seed(0))
    for learned in (Star(), Lstm(width=4)):
        path, _, weights = saved(tmp_path / "a.safetensors", learned)
        module, other = task.network(), task.network()
        write_module(module, start[0], task.layout)
        optimizer = LearnedOptimizer(module.parameters(), path)
        loop(module, optimizer, task, 3)
        params, reference = task.layout.unflatten(start), learned.optimizer(weights)
        state = reference.init(params)
        for _ in range(3):
            leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
            loss = task.training_losses(leaves, torch.arange(50))
            grads = dict(zip(leaves, torch.autograd.grad(loss.sum(), list(leaves.values())), strict=True))
            params, state = reference.update(params, grads, loss, state, 1.0)
        with subtests.test(learned=str(learned)):
            torch.testing.assert_close(module_params(module, task.layout), task.layout.flatten(params)[0])
        write_module(other, module_params(module, task.layout), task.layout)
        continued = LearnedOptimizer(other.parameters(), path)
        torch.save(optimizer.state_dict(), tmp_path / "state.pt")
        continued.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        loop(module, optimizer, task, 2)
        loop(other, continued, task, 2)
        with subtests.test(learned=str(learned), what="continued"):
            assert torch.equal(module_params(module, task.layout), module_params(other, task.layout))


def test_groups_closures_and_tensors_without_a_gradient(tmp_path) -> None:
    path, _, _ = saved(tmp_path / "a.safetensors")
    one, two, frozen = (torch.nn.Parameter(torch.ones(3)) for _ in range(3))
    optimizer = LearnedOptimizer([{"params": [one, frozen]}, {"params": [two], "lr": 0.0}], path)

    def closure():
        optimizer.zero_grad()
        loss = (one * two).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3
    assert (one != 1).all()
    assert (two == 1).all()
    assert (frozen == 1).all()
    with pytest.raises(ValueError, match="must not be negative"):
        LearnedOptimizer([one], path, lr=-1.0)


def test_bundled_weights_train_digits_better_than_adam_at_its_customary_rate() -> None:
    task = get_task("digits")
    starts = task.init(8, torch.Generator().manual_seed(3))
    rules = (StarRule(), AdamRule(learning_rate=1e-2, schedule="constant"), AdamRule(schedule="constant"))
    star, *others = (
        task.evaluate(next(follow(rule, task, starts, torch.Generator().manual_seed(4), steps=[200]))[0])["loss"].mean()
        for rule in rules
    )
    assert all(star < 0.95 * other for other in others)
