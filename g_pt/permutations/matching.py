"""The order of units in which one network is nearest to another.

Distances between networks mean nothing while their units may be reordered. For one group of units the nearest order
is a linear assignment; for several, groups take turns until nothing improves, as in weight matching (Ainsworth et al.
2022, "Git Re-Basin"), which finds a local optimum.

N = networks, P = parameters per network, U = units of a group.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations.spec import PermutationSpec
from g_pt.permutations.units import TokenIndex, token_index

MAX_SWEEPS = 10


def matched(params: Tensor, others: Tensor, layout: ParameterLayout, permutations: PermutationSpec) -> Tensor:
    """Reorder each of the others to be near one network: (P,) and (N, P) to (N, P)."""
    index, groups = token_index(layout, permutations), permutations.group_sizes(layout)
    distance = torch.full((len(others),), torch.inf)
    for _ in range(MAX_SWEEPS):
        for group in groups:
            scores = similarities(params, others, group, index)  # (N, U, U)
            # row u of the result should come from the other's unit order[u]
            order = torch.stack([torch.from_numpy(linear_sum_assignment(s, maximize=True)[1]) for s in scores.numpy()])
            orders = {name: torch.arange(size)[None] for name, size in groups.items()} | {group: order}
            others = permutations.permute(others, layout, orders)
        before, distance = distance, (others - params).norm(dim=1)
        if len(groups) < 2 or not (distance < before * (1 - 1e-6)).any():
            break
    return others


def similarities(params: Tensor, others: Tensor, group: str, index: TokenIndex) -> Tensor:
    """Inner product of each unit of one network with each unit of the others: (P,) and (N, P) to (N, U, U)."""
    parts = [index.units[group]] if group in index.units else []  # (U, K)
    for (rows, columns), entries in index.edges.items():  # (R, C, K)
        if rows == group:
            parts.append(entries.flatten(1))
        if columns == group:
            parts.append(entries.transpose(0, 1).flatten(1))
    own = torch.cat(parts, dim=1)  # (U, K)
    return torch.einsum("uk,nvk->nuv", params[own], others[:, own])
