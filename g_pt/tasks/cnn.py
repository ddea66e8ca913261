"""The paper's small CNN, one at a time as a module and many at a time as one tensor program.

B = networks, N = images, C = channels of an image, H / W = its height / width, P = positions after the first
convolution (H/2 times W/2), F = numbers in a 3x3 patch (9 C).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec
from g_pt.tasks.classification import ClassificationTask

HIDDEN, NUM_CLASSES = (16, 32), 10

# Evaluation takes this many networks (which share the patches) on this many images (whose activations stay in cache).
EVALUATION_NETWORKS, EVALUATION_IMAGES = 64, 64


class CNNTask(ClassificationTask):
    """Classification of images by the CNN; a task adds its input shape and its data."""

    input_shape: ClassVar[tuple[int, int, int]]  # channels, height, width

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the input and of both convolutions, and classes; members of a family have others."""
        return (self.input_shape[0], *HIDDEN, NUM_CLASSES)

    def network(self) -> nn.Sequential:
        """A fresh CNN: 5,370 parameters for three channels, 5,082 for one."""
        return cnn(self.widths[0], self.widths[1:-1])

    @cached_property
    def permutations(self) -> PermutationSpec:
        """The channels of both convolutions can be reordered."""
        return PermutationSpec.from_module(self.template, self.input_shape)

    def init(self, num_networks: int, generator: torch.Generator) -> Tensor:
        """PyTorch's default initialisation."""
        return cnn_init(self.layout, num_networks, generator)

    def forward(self, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Logits (B, 10, N)."""
        return cnn_forward(tensors, inputs)

    def evaluation_chunk(self, num_examples: int) -> tuple[int, int]:
        """Networks and images per call of `forward` without gradients."""
        return EVALUATION_NETWORKS, EVALUATION_IMAGES


def cnn(num_channels: int, hidden: Sequence[int] = HIDDEN) -> nn.Sequential:
    """Convolutions C-16 (stride 2) and 16-32 without bias, ReLU after both, average pool, linear 32-10."""
    width_1, width_2 = hidden
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(num_channels, width_1, 3, stride=2, padding=1, bias=False),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(width_1, width_2, 3, padding=1, bias=False),
        relu2=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(width_2, NUM_CLASSES),
    )
    return nn.Sequential(layers)


def cnn_init(layout: ParameterLayout, num_networks: int, generator: torch.Generator) -> Tensor:
    """Parameters of B networks, one row each, as `cnn()` draws them: all uniform in ±1/sqrt(fan_in)."""
    parts, bound = [], 0.0
    for shape, size in zip(layout.shapes, layout.sizes, strict=True):
        if len(shape) > 1:
            bound = 1 / math.sqrt(math.prod(shape[1:]))  # the bias follows its weight and shares its fan-in
        parts.append((torch.rand(num_networks, size, generator=generator) * 2 - 1) * bound)
    return torch.cat(parts, dim=1)


def cnn_forward(tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Logits of B networks on the same N images.

    Under `torch.autocast` the convolutions run in its dtype (products in bfloat16, sums in float32), the pool's
    outcome and the last layer in the dtype of the parameters.

    Args:
        tensors: `{name: (B, *shape)}` of a `cnn()`, raw.
        inputs: (N, C, H, W), shared by all networks, so that patches are cut once.

    Returns:
        (B, 10, N).
    """
    device = inputs.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else tensors["conv1.weight"].dtype
    with torch.autocast(device, enabled=False):
        pooled: Tensor = PooledFeatures.apply(tensors["conv1.weight"], tensors["conv2.weight"], inputs, dtype)
        return torch.baddbmm(tensors["fc.bias"][..., None], tensors["fc.weight"], pooled.transpose(1, 2))


class PooledFeatures(torch.autograd.Function):
    """Everything up to the pool: (B, 16, C, 3, 3), (B, 32, 16, 3, 3), (N, C, H, W), a dtype to (B, N, 32).

    Networks are taken one after the other, so that the activations of one stay in cache; channels are the last axis
    in memory, which oneDNN convolves fastest and which makes the first convolution a matrix product. The gradient is
    written by hand because autograd's takes twice as long: the pool's gradient reaches the second convolution in
    another order of axes there. Grouped convolution over all networks was slower too.
    """

    @staticmethod
    def forward(ctx: Any, conv1: Tensor, conv2: Tensor, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """Pooled features of each network."""
        patches, grid = cut_patches(inputs.to(dtype))  # (N*P, F)
        weights1 = conv1.detach().flatten(2).to(dtype)  # (B, 16, F)
        weights2 = channels_last(conv2.detach().to(dtype))
        pooled = torch.empty(len(conv1), len(inputs), conv2.shape[1], dtype=conv1.dtype, device=conv1.device)
        kept = []
        for weight1, weight2, means in zip(weights1, weights2, pooled, strict=True):
            hidden1 = (patches @ weight1.T).relu_().view(len(inputs), *grid, conv1.shape[1]).permute(0, 3, 1, 2)
            hidden2 = F.conv2d(hidden1, weight2, padding=1).relu_()  # (N, 32, H/2, W/2)
            means.copy_(hidden2.mean(dim=(2, 3)))
            if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
                kept += [hidden1, hidden2]
        ctx.save_for_backward(patches, weights2, *kept)
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Gradients of both convolutions; images get none."""
        patches, weights2, *kept = ctx.saved_tensors
        width_1 = weights2.shape[2]
        grad1 = grad.new_empty(len(grad), width_1, patches.shape[1])
        grad2 = grad.new_empty(weights2.shape)
        dtype, num_positions = patches.dtype, len(patches) // grad.shape[1]
        of_means = (grad / num_positions).to(dtype).contiguous()[..., None, None]  # (B, N, 32, 1, 1)
        for b, (hidden1, hidden2) in enumerate(zip(kept[::2], kept[1::2], strict=True)):
            of_hidden2 = relu_backward(of_means[b].expand_as(hidden2), hidden2)
            of_hidden1, of_weight2, _ = torch.ops.aten.convolution_backward(
                of_hidden2, hidden1, weights2[b], None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
            )
            grad2[b] = of_weight2
            of_hidden1 = relu_backward(of_hidden1, hidden1).permute(0, 2, 3, 1).reshape(-1, width_1)  # (N*P, 16)
            grad1[b] = of_hidden1.T @ patches
        return grad1.view(len(grad), width_1, -1, 3, 3), grad2, None, None


def cut_patches(images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The 3x3 patches that the first convolution sees, (N*P, F), and the grid (H/2, W/2) of their positions."""
    padded = F.pad(images, (1, 1, 1, 1))
    patches = padded.unfold(2, 3, 2).unfold(3, 3, 2)  # (N, C, H/2, W/2, 3, 3)
    grid = (patches.shape[2], patches.shape[3])
    return patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * 9), grid


def channels_last(weights: Tensor) -> Tensor:
    """The same (B, out, in, 3, 3), each network's weights with input channels last in memory."""
    return weights.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


def relu_backward(grad: Tensor, outputs: Tensor) -> Tensor:
    """The gradient where the ReLU was open, in the memory order of `outputs`."""
    return torch.ops.aten.threshold_backward(grad, outputs, 0)
