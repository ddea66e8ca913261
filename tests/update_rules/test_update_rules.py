"""What every update rule promises, G.pt included, and what the optimizers among them compute."""

from itertools import islice, pairwise

import pytest
import torch
from builders import build_pipeline, randomise
from torch import nn

from g_pt.report.optimizers import RIVALS
from g_pt.tasks import get_task
from g_pt.tasks.supervised import SupervisedTask
from g_pt.update_rules.base import GradientRule, PromptRule, UpdateRule
from g_pt.update_rules.mini_batches import mini_batches

TASK = get_task("digits")
NUM_STEPS = 3


def gradient_rule(name: str) -> GradientRule:
    rival = RIVALS[name]
    return GradientRule(TASK, name, rival.optimizer, 0.01, rival.momentum, rival.weight_decay)


def prompt_rule() -> PromptRule:
    pipeline = build_pipeline(TASK)
    randomise(pipeline.transformer, scale=0.05)
    return PromptRule(pipeline, 0.5, num_inference_steps=2)


RULES = {**{name: lambda name=name: gradient_rule(name) for name in RIVALS}, "G.pt": prompt_rule}


def follow(rule: UpdateRule, starts: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    return list(islice(rule.updates(starts, torch.Generator().manual_seed(seed)), NUM_STEPS))


@pytest.mark.parametrize("name", RULES)
def test_a_rule_keeps_what_it_promises(name: str) -> None:
    rule = RULES[name]()
    assert isinstance(rule, UpdateRule)
    assert rule.name == name
    assert rule.gradients_per_step == (0 if name == "G.pt" else 1)
    starts = TASK.init(4, torch.Generator().manual_seed(1))
    kept = starts.clone()
    updates = follow(rule, starts)
    assert torch.equal(starts, kept)  # starts stay as they are
    for before, after in pairwise([starts, *updates]):
        assert after.shape == (4, TASK.layout.num_params)
        assert after.isfinite().all()
        assert (after - before).norm(dim=1).min() > 1e-4  # every network moves at every step
        assert after.data_ptr() != before.data_ptr()  # and no later step moves it again
        assert not after.requires_grad
    for first, again in zip(updates, follow(rule, starts), strict=True):
        assert torch.equal(first, again)
    assert not torch.equal(updates[0], follow(rule, starts, seed=1)[0])  # batches or noise


@pytest.mark.parametrize("name", RIVALS)
def test_networks_train_as_torch_optim_trains_each_alone(name: str) -> None:
    starts = TASK.init(2, torch.Generator().manual_seed(1))
    ours = follow(gradient_rule(name), starts)[-1]
    rival, train = RIVALS[name], TASK.splits["train"]
    for start, end in zip(starts, ours, strict=True):
        module = TASK.network()
        module.load_state_dict(TASK.layout.unflatten(start))
        optimizer = {
            "SGD": lambda p: torch.optim.SGD(p, 0.01),
            "momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
            "Nesterov": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True),
            "Adam": lambda p: torch.optim.Adam(p, 0.01),
            "AdamW": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=rival.weight_decay),
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
    rates = torch.tensor([0.0, 0.01, 0.1])
    stacked = follow(GradientRule(TASK, "SGD", "sgd", rates), starts)[-1]
    assert torch.equal(stacked[0], starts[0])
    for rate, end in zip(rates[1:].tolist(), stacked[1:], strict=True):
        torch.testing.assert_close(end, follow(GradientRule(TASK, "SGD", "sgd", rate), starts[:1])[-1][0])


def test_a_prompt_rule_feeds_its_update_back() -> None:
    rule, seeded = prompt_rule(), torch.Generator().manual_seed(0)
    starts = TASK.init(2, torch.Generator().manual_seed(1))
    first = rule.pipeline(starts, 0.5, num_inference_steps=2, generator=seeded).params
    second = rule.pipeline(first, 0.5, num_inference_steps=2, generator=seeded).params
    assert torch.equal(follow(rule, starts)[1], second)


def test_dropout_follows_the_generator_and_leaves_the_global_one_alone() -> None:
    class Dropping(type(TASK)):
        forward = SupervisedTask.forward  # the task's own knows no dropout

        def network(self) -> nn.Module:
            return nn.Sequential(nn.Linear(64, 4), nn.Dropout(), nn.ReLU(), nn.Linear(4, 10))

        init = SupervisedTask.init

    task = Dropping()
    rule, starts = GradientRule(task, "SGD", "sgd", 0.1), task.init(2, torch.Generator().manual_seed(0))
    before = torch.random.get_rng_state()
    first = follow(rule, starts)[-1]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(follow(rule, starts)[-1], first)
