"""KFAC: gradients times Kronecker factors of the Fisher information (Martens and Grosse 2015).

B = networks, n = inputs of a layer with a 1 for the bias, m = its outputs. Importing this file imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from g_pt.update_rules.curvature import times
from g_pt.update_rules.first_order import each_network
from g_pt.update_rules.foof import Foof, by_layer

if TYPE_CHECKING:
    from torch import Tensor

    from g_pt.update_rules.base import Problem, Tensors

OUTPUTS = "/outputs"


@dataclass(frozen=True)
class Kfac(Foof):
    """KFAC: W <- W - rate (E + damping_E I)^-1 G (S + damping_S I)^-1, with FOOF's S and the mean E of e e^T.

    e are gradients at the layer's outputs. The damping is split as in section 6.3 of the paper: the product of both
    parts is `damping`, their ratio that of the mean eigenvalues of S and E.
    """

    learning_rate: float | tuple[float, ...] = 0.1
    damping: float | tuple[float, ...] = 1e-2
    title: ClassVar = "KFAC"

    def moments(self, params: Tensors, grads: Tensors, problem: Problem) -> Tensors:
        """See `CurvatureRule`: of the inputs of each layer, and of the gradients at its outputs."""
        at_outputs = problem.layer_gradients(params)
        return problem.layer_inputs(params) | {layer + OUTPUTS: moment for layer, moment in at_outputs.items()}

    def dampings(self, moments: Tensors) -> dict[str, float | Tensor]:
        """See `CurvatureRule`."""
        split: dict[str, float | Tensor] = {}
        for layer in [name for name in moments if not name.endswith(OUTPUTS)]:
            sides = moments[layer], moments[layer + OUTPUTS]
            at_inputs, at_outputs = (side.diagonal(dim1=1, dim2=2).mean(dim=1) for side in sides)  # eigenvalues' means
            ratio, root = at_inputs / at_outputs, each_network(self.damping, at_inputs) ** 0.5
            split[layer], split[layer + OUTPUTS] = root * ratio.sqrt(), root / ratio.sqrt()
        return split

    def directions(self, grads: Tensors, inverses: Tensors) -> Tensors:
        """See `CurvatureRule`."""
        layers = [name for name in inverses if not name.endswith(OUTPUTS)]
        return by_layer(grads, layers, lambda n, matrix: inverses[n + OUTPUTS] @ times(matrix, inverses[n]))
