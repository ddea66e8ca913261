"""Mini-block Fisher: gradients times inverses of small blocks of the Fisher information (Bahamou et al. 2023).

B = networks, k = parameters of a block, K = blocks of a tensor. Importing this file imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from g_pt.files.config import check_at_least
from g_pt.update_rules.curvature import CurvatureRule

if TYPE_CHECKING:
    from torch import Tensor

    from g_pt.update_rules.base import Problem, Tensors


@dataclass(frozen=True)
class MiniBlockFisher(CurvatureRule):
    """Mini-block Fisher: g <- (F + damping I)^-1 g in every block, F being the mean of g g^T over mini-batches.

    Blocks are the weights of one neuron, with one F for all neurons of a layer, the mean of theirs; in convolutions one
    filter between two channels, each with an F of its own; single numbers in other tensors. Needs gradients alone.
    """

    learning_rate: float | tuple[float, ...] = 1e-3
    damping: float | tuple[float, ...] = 1e-3
    decay: float = 0.9
    inverse_every: int = 4
    block_size: int | None = None
    """Parameters of a block, in all tensors, each block with an F of its own: 1 is a diagonal, the size of the largest
    tensor one block for each tensor. The blocks above where it is not given."""
    title: ClassVar = "Mini-block Fisher"
    tuned: ClassVar = {"learning_rate": (1e-4, 0.1), "damping": (1e-4, 0.1)}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, block_size=1)

    def size(self, grad: Tensor) -> int:
        """Parameters k of a tensor's blocks."""
        shape = grad.shape[1:]
        if self.block_size is not None:
            return min(self.block_size, math.prod(shape))
        return {1: 1, 2: shape[-1]}.get(len(shape), math.prod(shape[2:]))

    def moments(self, params: Tensors, grads: Tensors, problem: Problem) -> Tensors:
        """See `CurvatureRule`: (B, 1, k, k), or (B, K, k, k) where each block has its own."""
        found: Tensors = {}
        for name, grad in grads.items():
            rows = blocks(grad, self.size(grad))
            if self.block_size is None and grad.dim() == 3:
                found[name] = (rows.transpose(1, 2) @ rows / rows.shape[1])[:, None]
            else:
                found[name] = rows[..., :, None] * rows[..., None, :]
        return found

    def directions(self, grads: Tensors, inverses: Tensors) -> Tensors:
        """See `CurvatureRule`."""
        result: Tensors = {}
        for name, grad in grads.items():
            rows, inverse = blocks(grad, self.size(grad)), inverses[name]
            moved = rows @ inverse[:, 0] if inverse.shape[1] == 1 else (inverse @ rows[..., None])[..., 0]
            result[name] = moved.flatten(1)[:, : grad[0].numel()].reshape(grad.shape).contiguous()
        return result


def blocks(grad: Tensor, size: int) -> Tensor:
    """Consecutive numbers of a gradient (B, ...) in blocks (B, K, size); the last is filled up with zeros."""
    import torch

    flat = grad.flatten(1)
    return torch.nn.functional.pad(flat, (0, -flat.shape[1] % size)).view(len(flat), -1, size)
