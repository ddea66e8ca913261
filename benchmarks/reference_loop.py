"""The reference's model in its own form, written plainly: one Linear after the other for every token.

What `g_pt.reference` is measured against, in speed (`benchmarks/reference_step.py`) and in the tests. Written after the
description of the architecture, with the names of tensors that the reference's files have.

B = batch, P = parameters per network, S = tokens, W = width, H = heads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class LoopAttention(nn.Module):
    """Self-attention with query, key and value as layers of their own."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.key, self.query, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, S, W) to (B, S, W)."""
        shape = (*tokens.shape[:2], self.num_heads, tokens.shape[2] // self.num_heads)
        q, k, v = (layer(tokens).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        weights = (q @ k.transpose(2, 3) / shape[3] ** 0.5).softmax(dim=-1)  # (B, H, S, S)
        mixed: Tensor = self.proj((weights @ v).transpose(1, 2).flatten(2))  # (B, S, W)
        return mixed


class LoopBlock(nn.Module):
    """Pre-norm block."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = LoopAttention(width, num_heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, S, W) to (B, S, W)."""
        tokens = tokens + self.attn(self.ln1(tokens))
        return tokens + self.mlp(self.ln2(tokens))


class LoopDecoder(nn.Module):
    """Everything but the embedding of scalars; named as in the reference's files."""

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        width: int,
        num_layers: int,
        num_heads: int,
        encoder_depth: int,
        decoder_depth: int,
    ) -> None:
        super().__init__()
        self.inputs = list(inputs)
        self.pos_emb = nn.Parameter(torch.zeros(1, len(inputs), width))
        self.blocks = nn.Sequential(*(LoopBlock(width, num_heads) for _ in range(num_layers)))
        self.input_parameter_projections = nn.ModuleList(chain([size] + [width] * encoder_depth) for size in inputs)
        self.ln_in, self.ln_f = nn.LayerNorm(width), nn.LayerNorm(width)
        self.output_parameter_projections = nn.ModuleList(chain([width] * decoder_depth + [size]) for size in outputs)

    def forward(self, vector: Tensor) -> Tensor:
        """(B, L) to (B, P)."""
        parts = vector.split(self.inputs, dim=1)
        encoded = [layer(part) for layer, part in zip(self.input_parameter_projections, parts, strict=True)]
        tokens = self.blocks(self.ln_in(torch.stack(encoded, dim=1)) + self.pos_emb)  # (B, S, W)
        tokens = self.ln_f(tokens)  # (B, S, W)
        decoded = [layer(tokens[:, i]) for i, layer in enumerate(self.output_parameter_projections)]
        return torch.cat(decoded, dim=1)


def chain(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers without bias, a GELU between any two; the numbers in their names count GELUs too."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for width_in, width_out in pairwise(widths):
        if layers:
            layers[str(len(layers))] = nn.GELU()
        layers[str(len(layers))] = nn.Linear(width_in, width_out, bias=False)
    return nn.Sequential(layers)


class LoopScalars(nn.Module):
    """Frequencies of the scalars' embedding, as a buffer of the name that the files have."""

    frequencies: Tensor

    def __init__(self, num_frequencies: int, max_frequency_log2: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 ** torch.linspace(0, max_frequency_log2, num_frequencies))

    def forward(self, scalar: Tensor) -> Tensor:
        """(B,) to (B, 2F+1)."""
        x = scalar.float()[:, None]
        return torch.cat([(self.frequencies * x).sin(), (self.frequencies * x).cos(), x], dim=1)


class LoopTransformer(nn.Module):
    """The whole model, behind the same `forward` as ours."""

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        width: int,
        num_layers: int,
        num_heads: int,
        encoder_depth: int = 1,
        decoder_depth: int = 1,
        num_frequencies: int = 128,
        max_frequency_log2: float = 14.0,
        absolute_metrics: bool = True,
    ) -> None:
        super().__init__()
        self.absolute_metrics = absolute_metrics
        self.decoder = LoopDecoder(inputs, outputs, width, num_layers, num_heads, encoder_depth, decoder_depth)
        self.scalar_embedder = LoopScalars(num_frequencies, max_frequency_log2)

    def forward(
        self, x_t: Tensor, timesteps: Tensor, x_start: Tensor, starting_metric: Tensor, prompted_metric: Tensor
    ) -> Tensor:
        """(B, P) twice and (B,) three times to (B, P)."""
        scalars = [timesteps, prompted_metric - starting_metric]
        scalars += [prompted_metric, starting_metric] if self.absolute_metrics else []
        embedded = [self.scalar_embedder(scalar) for scalar in scalars]
        output: Tensor = self.decoder(torch.cat([x_t, x_start, *embedded], dim=1)) + x_start
        return output
