"""Units in the order of a score of the start: the alternative to augmentation and to equivariance.

B = networks, P = parameters per network.
"""

from __future__ import annotations

from torch import Tensor

from g_pt.model.pairs import CheckpointPairs
from g_pt.permutations.units import token_index
from g_pt.tasks.base import Task
from g_pt.training.setup import PairSource


def canonical_index(task: Task, params: Tensor) -> Tensor:
    """Where each entry of the reordered vectors comes from, (B, P): units by the sum of their parameters.

    The sum over a unit's slices does not depend on the order of the other groups' units.
    """
    units = token_index(task.layout, task.permutations, "slices").units
    orders = {group: params[:, entries].sum(dim=2).argsort(dim=1) for group, entries in units.items()}
    return task.permutations.index(task.layout, orders)


def in_canonical_order(task: Task, params: Tensor) -> Tensor:
    """Networks (B, P) with their units reordered; they compute what they did."""
    return params.gather(1, canonical_index(task, params))


def canonical_pairs(pairs: PairSource, task: Task) -> PairSource:
    """The same pairs, both networks in the canonical order of the start."""

    def canonical(step: int, share: slice) -> CheckpointPairs:
        batch = pairs(step, share)
        index = canonical_index(task, batch.starting_params)
        start, future = (params.gather(1, index) for params in (batch.starting_params, batch.future_params))
        return CheckpointPairs(start, future, batch.starting_metric, batch.future_metric)

    return canonical
