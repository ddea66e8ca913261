"""FOOF: gradient descent on the outputs of neurons instead of on their weights (Benzing 2022).

B = networks, n = inputs of a layer with a 1 for the bias, m = its outputs. Importing this file imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from g_pt.update_rules.curvature import Curvature, CurvatureRule, times

if TYPE_CHECKING:
    from torch import Tensor

    from g_pt.tasks.base import Task
    from g_pt.update_rules.base import Problem, Tensors


@dataclass(frozen=True)
class Foof(CurvatureRule):
    """FOOF: W <- W - rate G (S + damping I)^-1 in every layer, S being the mean of a a^T over its inputs a.

    That changes a layer's outputs by -rate times their gradients, as well as least squares can: section 3 of the paper.
    """

    learning_rate: float | tuple[float, ...] = 3.0
    title: ClassVar = "FOOF"

    def unknown_curvature(self, trained: Tensors, task: Task) -> Curvature:
        """See `GradientRule`; layers that are neither linear nor convolutions are refused, see `known_layers`."""
        from g_pt.update_rules.layer_moments import known_layers

        known_layers(task)
        return super().unknown_curvature(trained, task)

    def moments(self, params: Tensors, grads: Tensors, problem: Problem) -> Tensors:
        """See `CurvatureRule`: of the inputs of each layer."""
        return problem.layer_inputs(params)

    def directions(self, grads: Tensors, inverses: Tensors) -> Tensors:
        """See `CurvatureRule`."""
        return by_layer(grads, inverses, lambda layer, matrix: times(matrix, inverses[layer]))


def by_layer(grads: Tensors, layers: Iterable[str], change: Callable[[str, Tensor], Tensor]) -> Tensors:
    """Gradients, of which each layer's are changed as one matrix (B, m, n), its last column being the bias.

    A bias that is not trained has no column. Gradients of no layer here stay as they are, as does a layer whose weight
    is not trained, or is held under the name of another layer that shares it.
    """
    import torch

    result = dict(grads)
    for layer in layers:
        weight, bias = (f"{layer}.{kind}".lstrip(".") for kind in ("weight", "bias"))
        if weight not in grads:
            continue
        columns = [grads[weight].flatten(2), *([grads[bias][..., None]] if bias in grads else [])]
        changed = change(layer, torch.cat(columns, dim=2)).split([column.shape[2] for column in columns], dim=2)
        result[weight] = changed[0].reshape(grads[weight].shape)
        if bias in grads:
            result[bias] = changed[1][..., 0].contiguous()
    return result
