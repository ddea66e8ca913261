"""Several linear layers at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def apply_linears(layers: Iterable[nn.Module], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Each `nn.Linear` to its own input, (..., in) to (..., out); those of equal shapes are one batched product.

    The weights stay with their layers, under their own names, and are stacked here: that copies weights, which are
    few beside activations, and saves a loop of small products over tokens.
    """
    linears: list[Any] = list(layers)  # what an nn.ModuleList holds has no type
    outputs = list(inputs)
    for members in alike(linears, inputs):
        if len(members) == 1:
            outputs[members[0]] = linears[members[0]](inputs[members[0]])
            continue
        weights = torch.stack([linears[i].weight for i in members]).transpose(1, 2)  # (G, in, out)
        biases = torch.stack([linears[i].bias for i in members])[:, None]  # (G, 1, out)
        rows = torch.stack([inputs[i].flatten(0, -2) for i in members])  # (G, N, in)
        products = torch.baddbmm(biases, rows, weights)  # (G, N, out)
        for i, product in zip(members, products, strict=True):
            outputs[i] = product.view(*inputs[i].shape[:-1], -1)
    return outputs


def alike(layers: Sequence[nn.Linear], inputs: Sequence[Tensor]) -> list[list[int]]:
    """Places of the layers that have equal matrices and inputs."""
    groups: dict[tuple[torch.Size, torch.Size], list[int]] = {}
    for place, (layer, values) in enumerate(zip(layers, inputs, strict=True)):
        groups.setdefault((layer.weight.shape, values.shape), []).append(place)
    return list(groups.values())
