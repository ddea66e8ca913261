"""Multi-layer perceptrons, one at a time as a module and many at a time as one tensor program.

B = networks, N = inputs, I / H = width of a layer's input / output.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec
from g_pt.tasks.supervised import SupervisedTask


class MLPTask(SupervisedTask):
    """Networks that are MLPs; a task adds widths, data with inputs (N, widths[0]), and what is learned.

    Derive from it and, behind it, from ClassificationTask or RegressionTask.
    """

    widths: ClassVar[tuple[int, ...]]

    def network(self) -> nn.Sequential:
        """A fresh `fc1`, ReLU, `fc2`, ..."""
        return mlp(self.widths)

    @cached_property
    def permutations(self) -> PermutationSpec:
        """The units of every hidden layer can be reordered."""
        return PermutationSpec.from_module(self.template, input_shape=(self.widths[0],))  # without reading the data

    def init(self, num_networks: int, generator: torch.Generator) -> Tensor:
        """PyTorch's default initialisation."""
        return mlp_init(self.layout, num_networks, generator)

    def forward(self, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs (B, widths[-1], N)."""
        return mlp_forward(tensors, inputs)


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers `fc1`, `fc2`, ... with ReLU between them, in PyTorch's default initialisation."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (width_in, width_out) in enumerate(pairwise(widths), start=1):
        if i > 1:
            layers[f"relu{i - 1}"] = nn.ReLU()
        layers[f"fc{i}"] = nn.Linear(width_in, width_out)
    return nn.Sequential(layers)


def mlp_init(layout: ParameterLayout, num_networks: int, generator: torch.Generator) -> Tensor:
    """Parameters (B, P) as `mlp()` draws them: weights and biases uniform in ±1/sqrt(fan_in)."""
    parts, bound = [], 0.0
    for shape, size in zip(layout.shapes, layout.sizes, strict=True):
        if len(shape) == 2:
            bound = 1 / math.sqrt(shape[1])  # a bias follows its weight and shares its fan-in
        parts.append((torch.rand(num_networks, size, generator=generator) * 2 - 1) * bound)
    return torch.cat(parts, dim=1)


def mlp_forward(tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Outputs of B networks on the same N inputs.

    Args:
        tensors: `{name: (B, *shape)}` of an `mlp()`, raw, in its order.
        inputs: (N, I), shared by all networks, so that all first layers are one matrix product.

    Returns:
        (B, outputs, N): examples last, which keeps every product and softmax contiguous.
    """
    layers = list(tensors.values())
    weight, bias = layers[0], layers[1]  # (B, H, I), (B, H)
    num, width = bias.shape
    hidden = torch.addmm(bias.reshape(-1, 1), weight.reshape(num * width, -1), inputs.T)  # (B*H, N)
    hidden = hidden.view(num, width, -1)  # (B, H, N)
    for weight, bias in zip(layers[2::2], layers[3::2], strict=True):
        hidden = torch.baddbmm(bias[..., None], weight, hidden.relu())  # (B, H, N)
    return hidden
