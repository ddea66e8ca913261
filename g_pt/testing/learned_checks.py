"""Does a learnable optimizer keep its promises? `check_learned_optimizer(MyOptimizer())` says what is wrong.

B = networks, M = weights.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from g_pt.evolution.unrolls import leaves
from g_pt.testing.requirements import NUM_NETWORKS, global_generator_kept, require
from g_pt.testing.rule_checks import check_optimizer, normal, part, require_tree, train
from g_pt.update_rules.base import LearnableOptimizer

CHANGE = 0.02  # of fresh weights, so that no output is 0


def check_learned_optimizer(learned: LearnableOptimizer) -> None:
    """Run every check of a learnable optimizer, and `check_optimizer` on what it makes of some weights.

    Fresh weights are as many as it says and the generator decides them; others are refused; one set for each network
    is each set alone; `update` writes into nothing; a state has an axis for the networks in front everywhere, and a
    loss after some steps has gradients with respect to all weights.

    Raises:
        AssertionError: a promise is broken; the message says which, what came, and what to do.
    """
    num = learned.num_weights
    with global_generator_kept("init"):
        fresh, again = (learned.init(torch.Generator().manual_seed(0)) for _ in range(2))
    require(fresh.shape == (num,) and fresh.dtype == torch.float32, f"init must return ({num},), got {fresh.shape}")
    require(torch.equal(fresh, again), "the generator must decide the fresh weights")
    check_numbers_of_weights(learned)
    some = fresh.double() + CHANGE * normal(3, NUM_NETWORKS, num)
    check_optimizer(learned.optimizer(some[0]))
    starts = {"weight": normal(0, NUM_NETWORKS, 2, 3), "bias": normal(1, NUM_NETWORKS, 4)}
    together = train(learned.optimizer(some), starts, 1.0)
    for i, weights in enumerate(some):
        alone = {name: tensor[i : i + 1] for name, tensor in starts.items()}
        require_tree(train(learned.optimizer(weights), alone, 1.0), part(together, i), "weights of each network")
    check_state(learned, some, starts)
    leaf = some[0].clone().requires_grad_()
    ends = train(learned.optimizer(leaf), starts, 1.0)
    (grad,) = torch.autograd.grad(ends["weight"].square().sum(), leaf)
    require(bool(grad.isfinite().all() and grad.any()), "a loss must have a finite gradient for the weights, not 0")


def check_numbers_of_weights(learned: LearnableOptimizer) -> None:
    """Refuse an optimizer that takes the weights of another."""
    for wrong in (learned.num_weights - 1, learned.num_weights + 1):
        try:
            learned.optimizer(torch.zeros(wrong))
        except ValueError:
            continue
        require(False, f"optimizer must refuse {wrong} weights by a ValueError, it has {learned.num_weights}")


def check_state(learned: LearnableOptimizer, weights: Tensor, starts: dict[str, Tensor]) -> None:
    """Refuse a state without the axis of networks, and an update that writes into what it is given."""
    optimizer = learned.optimizer(weights)
    grads = {name: tensor.sin() for name, tensor in starts.items()}
    given = (starts, grads, optimizer.init(starts))
    kept = copy.deepcopy(given)
    _, state = optimizer.update(*given[:2], torch.zeros(NUM_NETWORKS), given[2], 1.0)
    for tensor, before in zip(leaves(given), leaves(kept), strict=True):
        require(torch.equal(tensor, before), "update must write into nothing that it is given")
    for tensor in leaves((given[2], state)):
        require(len(tensor) == NUM_NETWORKS, f"states must be ({NUM_NETWORKS}, ...), got {tuple(tensor.shape)}")
