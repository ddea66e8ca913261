"""Settings of the optimizers that can be learned. Importing this file imports no torch.

M = weights, H = heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from g_pt.learned_optimizers.base import Shapes, num_weights
from g_pt.update_rules.base import Optimizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NUM_FEATURES, WIDTH, NUM_DECAYS = 39, 4, 7
Nominal = Literal["gradient", "momentum", "mean-momentum", "adam", "mean-adam"]


@dataclass(frozen=True)
class SmallFc:
    """small_fc_lopt (Metz et al. 2022): an MLP 39-4-4-2 for every parameter; 197 weights.

    params <- params - step d exp(magnitude m), of the two outputs d and m.
    """

    step: float = 0.01
    """Factor of the step; 0.001 in google/learned_optimization."""
    magnitude: float = 0.001
    """Factor of the second output, in the exponent."""
    compile: bool = False
    """Compile by torch.compile: a slow first step for each shape of a tensor, then several times faster ones."""
    num_heads: ClassVar[int] = 2

    @property
    def shapes(self) -> Shapes:
        """Of the weights: matrices (inputs, outputs) and biases in turn, then offsets of the decays."""
        sizes = (NUM_FEATURES, WIDTH, WIDTH, self.num_heads)
        return (*(shape for n, m in pairwise(sizes) for shape in ((n, m), (m,))), (NUM_DECAYS,))

    @property
    def num_weights(self) -> int:
        """See `LearnableOptimizer`."""
        return num_weights(self.shapes)

    def init(self, generator: torch.Generator) -> Tensor:
        """See `LearnableOptimizer`: matrices truncated normal with deviation 1/sqrt(inputs), all else 0."""
        from g_pt.learned_optimizers.mlp import fresh_weights

        return fresh_weights(self.shapes, generator)

    def optimizer(self, weights: Tensor) -> Optimizer[Any]:
        """See `LearnableOptimizer`."""
        from g_pt.learned_optimizers.mlp import MlpOptimizer

        return MlpOptimizer(self, weights)


@dataclass(frozen=True)
class Star(SmallFc):
    """STAR (Harrison et al. 2022): small_fc as a bounded residual of a nominal optimizer, with decay; 207 weights.

    params <- (1 - weight_decay e^r) params - step d exp(magnitude m) - nominal_rate e^n G, of four outputs d, m, n, r.
    With a nominal rate and a decay of 0 it is small_fc with two idle outputs.
    """

    step: float = 0.003
    """Factor of the residual; 0.001 in google/learned_optimization."""
    nominal_rate: float = 0.003
    """Learning rate of the nominal optimizer."""
    nominal: Nominal = "mean-adam"
    """Direction G of the nominal optimizer: the gradient, the slowest momentum or the mean of the three; `adam` and
    `mean-adam` are these over the root of the mean of squares."""
    weight_decay: float = 1e-4
    """Share of the parameters that a step takes off."""
    controller: float = 1.0
    """Factor of n and r, in the exponents; 0.001 in google/learned_optimization."""
    per_tensor: bool = True
    """Take the means of n and r over each tensor."""
    preconditioned: bool = False
    """Divide the residual by the root of the mean of squares, too."""
    zero_head: bool = True
    """Let fresh weights be the nominal optimizer: its last matrix is 0."""
    num_heads: ClassVar[int] = 4

    def init(self, generator: torch.Generator) -> Tensor:
        """See `LearnableOptimizer`."""
        weights = super().init(generator)
        if self.zero_head:
            start, size = num_weights(self.shapes[:4]), WIDTH * self.num_heads
            weights[start : start + size] = 0
        return weights


@dataclass(frozen=True)
class Lstm:
    """L2L (Andrychowicz et al. 2016): two LSTM layers for every parameter, which see its gradient; 5,141 weights."""

    step: float = 0.1
    """Factor of the step; 0.01 in the paper, for networks."""
    width: int = 20
    """Hidden units of each layer."""
    log_range: float = 5.0
    """k of the inputs: max(log(|g|) / k, -1) and g e^k between -1 and 1."""

    @property
    def shapes(self) -> Shapes:
        """Of the weights: for each layer those of the inputs, of the states, and the bias; then the output's."""
        n = self.width
        layers = (((size, 4 * n), (n, 4 * n), (4 * n,)) for size in (2, n))
        return (*(shape for layer in layers for shape in layer), (n, 1), (1,))

    @property
    def num_weights(self) -> int:
        """See `LearnableOptimizer`."""
        return num_weights(self.shapes)

    def init(self, generator: torch.Generator) -> Tensor:
        """See `LearnableOptimizer`: uniform in ±1/sqrt(width) as PyTorch's, the output's normal of 0.01."""
        from g_pt.learned_optimizers.lstm import fresh_weights

        return fresh_weights(self, generator)

    def optimizer(self, weights: Tensor) -> Optimizer[Any]:
        """See `LearnableOptimizer`."""
        from g_pt.learned_optimizers.lstm import LstmOptimizer

        return LstmOptimizer(self, weights)
