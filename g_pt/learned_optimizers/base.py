"""Optimizers that can be learned, by name, and their weights as tensors. Importing this file imports no torch.

B = networks, M = weights of a learned optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from g_pt.files.choices import ChosenFrom

if TYPE_CHECKING:
    from torch import Tensor

# name -> "module:Class", a dataclass that is a LearnableOptimizer; every field is a setting with a default
LEARNABLE: dict[str, str] = {
    "small-fc": "g_pt.learned_optimizers.mlp:SmallFc",
    "star": "g_pt.learned_optimizers.mlp:Star",
    "lstm": "g_pt.learned_optimizers.lstm:Lstm",
}
CHOSEN_OPTIMIZER = ChosenFrom(LEARNABLE)
Shapes = tuple[tuple[int, ...], ...]


def num_weights(shapes: Shapes) -> int:
    """Numbers in tensors of these shapes."""
    return sum(map(math.prod, shapes))


def split_weights(weights: Tensor, shapes: Shapes) -> Iterator[Tensor]:
    """Weights (M,) or (B, M) as tensors (1, *shape) or (B, *shape), which broadcast over networks.

    Raises:
        ValueError: there are more or fewer weights than the optimizer has.
    """
    rows = weights if weights.dim() == 2 else weights[None]
    wanted = num_weights(shapes)
    if rows.dim() != 2 or rows.shape[1] != wanted:
        raise ValueError(f"this optimizer has {wanted} weights, got {tuple(weights.shape)}: they are those of another")
    parts = rows.split([math.prod(shape) for shape in shapes], dim=1)
    return (part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True))
