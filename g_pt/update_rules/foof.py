"""FOOF: gradient descent on the outputs of neurons instead of on their weights (Benzing 2022).

B = networks, n = inputs of a layer with a 1 for the bias, m = its outputs. Importing this file imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
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

    learning_rate: float | tuple[float, ...] = 0.3
    tuned: ClassVar = {"learning_rate": (1e-2, 10.0), "damping": (1e-3, 1.0)}

    @property
    def name(self) -> str:
        """In tables and figures."""
        return "FOOF"

    def unknown_curvature(self, trained: Tensors, task: Task) -> Curvature:
        """See `GradientRule`.

        Raises:
            ValueError: a layer is neither linear nor a convolution, see `known_layers`.
        """
        from g_pt.update_rules.layer_moments import known_layers

        known_layers(task)
        return Curvature()

    def moments(self, params: Tensors, grads: Tensors, problem: Problem) -> Tensors:
        """See `CurvatureRule`: of the inputs of each layer."""
        return problem.layer_inputs(params)

    def directions(self, grads: Tensors, inverses: Tensors) -> Tensors:
        """See `CurvatureRule`."""
        result = dict(grads)
        for layer in layers_in(grads, inverses):
            result |= split_layer(times(layer_matrix(grads, layer), inverses[layer]), grads, layer)
        return result


def layers_in(grads: Tensors, layers: Iterable[str]) -> list[str]:
    """Layers whose weight is trained, and held under the layer's own name where layers share it."""
    return [layer for layer in layers if tensor_names(grads, layer)[0] in grads]


def tensor_names(tensors: Tensors, layer: str) -> tuple[str, str | None]:
    """Names of a layer's weight and bias; None where it has no bias, or none that is trained."""
    weight, bias = (f"{layer}.{kind}".lstrip(".") for kind in ("weight", "bias"))
    return weight, bias if bias in tensors else None


def layer_matrix(grads: Tensors, layer: str) -> Tensor:
    """Gradients of a layer as one matrix, the bias as its last column: (B, m, n)."""
    import torch

    weight, bias = tensor_names(grads, layer)
    matrix = grads[weight].flatten(2)
    return matrix if bias is None else torch.cat([matrix, grads[bias][..., None]], dim=2)


def split_layer(matrix: Tensor, grads: Tensors, layer: str) -> Tensors:
    """Tensors of a layer from their matrix: see `layer_matrix`."""
    weight, bias = tensor_names(grads, layer)
    shape = grads[weight].shape
    if bias is None:
        return {weight: matrix.view(shape)}
    return {weight: matrix[..., :-1].reshape(shape), bias: matrix[..., -1].clone()}
