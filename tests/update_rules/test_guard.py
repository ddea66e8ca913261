"""The guard: whatever the guarded rule does, no block ends above the fall-back where the loss is known exactly."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from builders import build_pipeline, randomise
from torch import Tensor

from g_pt.tasks import get_task
from g_pt.tasks.quadratics import Quadratics
from g_pt.update_rules.first_order import SGD
from g_pt.update_rules.gradient import AdamRule, GradientRule, SGDRule
from g_pt.update_rules.guard import Guard, lowest
from g_pt.update_rules.lookahead import Lookahead
from g_pt.update_rules.problem import follow
from g_pt.update_rules.prompted import PromptRule

MU, LARGEST, BLOCK, NUM_BLOCKS = 0.1, 1.0, 5, 60
TASK = Quadratics(spectrum=torch.linspace(MU, LARGEST, 10).tolist(), noise=0.0)
GRADIENT_DESCENT = GradientRule(SGD(), 1 / LARGEST, schedule="constant")


@dataclass(frozen=True)
class Jump:
    """A step to wherever a function says: of the point (B, n), its generator and the step."""

    to: Any = field(repr=False)
    name = "jump"

    def init(self, params, task):
        return None

    def step(self, params, state, problem):
        return {"point": self.to(params["point"], problem)}, None


def random(point: Tensor, problem) -> Tensor:
    return point + 10 * torch.randn(point.shape, generator=problem.generator, dtype=point.dtype)


def ascending(point: Tensor, problem) -> Tensor:
    return point + problem.gradients({"point": point})[1]["point"]


def excellent(point: Tensor, problem) -> Tensor:
    """Near-perfect in every other block, wild in the others."""
    good = problem.step // BLOCK % 2 == 0
    return TASK.minimum + 0.3 * (point - TASK.minimum) if good else random(point, problem)


BAD = {
    "random": random,
    "ascending": ascending,
    "NaN": lambda point, problem: point * torch.nan,
    "constant": lambda point, problem: torch.full_like(point, 3.0),
}


def losses_after_blocks(rule: Any) -> Tensor:
    """Loss above the smallest, of 4 points after each block, float64: (blocks + 1, B)."""
    starts = TASK.init(4, torch.Generator().manual_seed(0)).double()
    steps = range(0, NUM_BLOCKS * BLOCK + 1, BLOCK)
    path = follow(rule, TASK, starts, torch.Generator().manual_seed(1), steps=steps, batch_size=TASK.num_examples)
    return torch.stack([TASK.evaluate(params, "test")["loss"] for params, _ in path])


@pytest.mark.parametrize("kind", [*BAD, "excellent"])
def test_every_block_keeps_the_bound_of_gradient_descent_on_a_strongly_convex_problem(kind: str) -> None:
    to = BAD.get(kind, excellent)
    losses = losses_after_blocks(Guard(Jump(to), GRADIENT_DESCENT, block=BLOCK, num_batches=1))
    blocks = torch.arange(NUM_BLOCKS + 1)[:, None]
    bound = (1 - MU / LARGEST) ** (2 * BLOCK * blocks) * losses[0]
    assert (losses <= bound * (1 + 1e-9) + 1e-25).all()
    alone = losses_after_blocks(GRADIENT_DESCENT)
    if kind == "excellent":
        assert (losses[1] < 1e-2 * alone[1]).all()
    else:  # a guard is not to be bought by luck: what is never better leaves exactly the fall-back
        refused = losses == alone
        assert refused.all() if kind in ("ascending", "NaN") else refused[20:].all()


def test_the_guard_costs_both_rules_and_its_own_losses() -> None:
    starts = Quadratics().init(3, torch.Generator().manual_seed(0))
    rule = Guard(AdamRule(schedule="constant"), SGDRule(schedule="constant"), block=4, rule_steps=1, num_batches=5)
    [(_, cost)] = follow(rule, Quadratics(), starts, torch.Generator().manual_seed(0), steps=[8])
    assert (cost.gradients, cost.losses, cost.metrics) == (8 + 2, 2 * 2 * 5, 0)
    assert cost.state_bytes == 3 * 4 * 10  # the rule's networks, and two means of Adam


def test_soft_acceptance_goes_from_no_move_to_the_update() -> None:
    pipeline, task = build_pipeline(get_task("digits")), get_task("digits")
    randomise(pipeline.transformer, scale=0.05)
    starts = task.init(3, torch.Generator().manual_seed(0))
    rule = PromptRule(pipeline, 0.5, num_inference_steps=2)

    def updated(alpha: float, wrapped: bool = False) -> Tensor:
        soft = Lookahead(rule, alpha=alpha, every=1) if wrapped else replace(rule, alpha=alpha)
        return next(follow(soft, task, starts, torch.Generator().manual_seed(1)))[0]

    update = pipeline(starts, 0.5, num_inference_steps=2, generator=torch.Generator().manual_seed(1)).params
    assert torch.equal(updated(1.0), update)
    assert torch.equal(updated(0.0), starts)
    torch.testing.assert_close(updated(0.3), starts + 0.3 * (update - starts))
    torch.testing.assert_close(updated(0.3), updated(0.3, wrapped=True))  # Lookahead, an update being the fast weights
    for alpha in (-0.1, 1.1, torch.nan):
        with pytest.raises(ValueError, match="alpha must lie between 0, no move, and 1"):
            replace(rule, alpha=alpha)


def test_the_lowest_loss_is_taken_and_nan_never() -> None:
    nan, inf = torch.nan, torch.inf
    candidates = torch.tensor([[2.0, nan, nan, 1.0, -inf], [1.0, 0.5, inf, 1.0, 3.0]])
    fallback = torch.tensor([1.5, 0.4, nan, nan, 2.0])
    assert lowest(candidates, fallback).tolist() == [1, -1, -1, 0, -1]
