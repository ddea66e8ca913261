"""What can be learned of an optimizer, and what is saved of one. Importing this file imports no torch.

B = networks, M = weights of a learned optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from g_pt.files.choices import ChosenFrom

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from g_pt.update_rules.base import Optimizer

# name -> "module:Class", a dataclass that is a LearnableOptimizer; every field is a setting with a default
LEARNABLE: dict[str, str] = {
    "small-fc": "g_pt.learned_optimizers.settings:SmallFc",
    "star": "g_pt.learned_optimizers.settings:Star",
    "lstm": "g_pt.learned_optimizers.settings:Lstm",
}
CHOSEN_OPTIMIZER = ChosenFrom(LEARNABLE)
Shapes = tuple[tuple[int, ...], ...]


@runtime_checkable
class LearnableOptimizer(Protocol):
    """Makes an optimizer of weights: one set (M,) for all networks, or one for each, (B, M), as evolution needs it.

    The state of the optimizer is a tree of tensors with an axis for the networks in front, so that some networks can
    begin anew beside others, and `update` writes into nothing that it is given, so that weights can have gradients.
    The learning rate multiplies the step: 1 is the optimizer as it was trained.
    """

    @property
    def num_weights(self) -> int:
        """M."""
        ...

    def init(self, generator: torch.Generator) -> Tensor:
        """Fresh weights (M,)."""
        ...

    def optimizer(self, weights: Tensor) -> Optimizer[Any]:
        """The optimizer that has these weights, (M,) or (B, M)."""
        ...


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
