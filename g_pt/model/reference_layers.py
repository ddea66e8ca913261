"""Layers of the reference model: an own linear map for every token, scalars as sinusoids, transformer blocks.

B = batch, S = tokens, W = width, H = heads, F = frequencies, G = tokens of equal size, K = their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from g_pt.model.transformer import attention

INIT_STD = 0.02


class TokenLinear(nn.Module):
    """A matrix of its own for every token, without bias; tokens of equal size are one batched product.

    A Python loop over tokens is what makes the reference slow: 26 encoders and 11 decoders of the MNIST model are 9
    products here.
    """

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Matrices (inputs[i], outputs[i]) for token i, normal with standard deviation 0.02.

        Inputs first, the other way round than in `nn.Linear`: so gradients come out of the product as they are kept.
        """
        super().__init__()
        shapes = list(zip(inputs, outputs, strict=True))
        self.groups = [
            (shape, [i for i, s in enumerate(shapes) if s == shape]) for shape in dict.fromkeys(shapes)
        ]  # [((in, out), tokens)]
        self.weights = nn.ParameterList(
            nn.Parameter(INIT_STD * torch.randn(len(tokens), *shape)) for shape, tokens in self.groups
        )

    def matrix(self, token: int) -> tuple[int, int]:
        """Where the matrix of a token lies: index into `weights` and into its first axis."""
        for group, (_, tokens) in enumerate(self.groups):
            if token in tokens:
                return group, tokens.index(token)
        raise ValueError(f"token must be below {self.num_tokens}, got {token}")

    @property
    def num_tokens(self) -> int:
        """S."""
        return sum(len(tokens) for _, tokens in self.groups)

    def forward(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Inputs of each group, (G, B, in) each, to outputs (G, B, out) each."""
        return [torch.bmm(part, weight) for part, weight in zip(parts, self.weights, strict=True)]


class TokenEncoder(nn.Module):
    """From the concatenated vector to tokens: per-token matrices, with GELU between them where there are several."""

    order: Tensor

    def __init__(self, sizes: Sequence[int], width: int, depth: int) -> None:
        """`sizes` of the tokens sum to the length of the vector; `depth` matrices per token."""
        super().__init__()
        widths = [width] * len(sizes)
        self.first = TokenLinear(sizes, widths)
        self.rest = nn.ModuleList(TokenLinear(widths, widths) for _ in range(depth - 1))
        starts = list(accumulate(sizes, initial=0))
        # stretches of neighbouring tokens of one size are views of the vector: (group, first entry, number)
        self.stretches = [stretches(tokens, starts) for _, tokens in self.first.groups]
        tokens = [token for _, group in self.first.groups for token in group]
        self.register_buffer("order", torch.tensor(tokens).argsort(), persistent=False)

    def forward(self, vector: Tensor) -> Tensor:
        """(B, L) to (S, B, W)."""
        parts = []
        for ((size, _), _), found in zip(self.first.groups, self.stretches, strict=True):
            views = [vector[:, at : at + num * size].unflatten(1, (num, size)) for at, num in found]  # (B, num, K)
            parts.append(torch.cat(views, dim=1).transpose(0, 1))  # (G, B, K)
        tokens = torch.cat(self.first(parts))[self.order]  # (S, B, W)
        for linear in self.rest:
            (tokens,) = linear([F.gelu(tokens)])  # (S, B, W)
        return tokens


def stretches(tokens: list[int], starts: list[int]) -> list[tuple[int, int]]:
    """First entry and number of tokens of each unbroken row of tokens."""
    found: list[tuple[int, int]] = []
    for previous, token in zip([None, *tokens], tokens, strict=False):
        if previous is not None and token == previous + 1:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((starts[token], 1))
    return found


class TokenDecoder(nn.Module):
    """From the first tokens to a vector: per-token matrices, with GELU between them where there are several."""

    def __init__(self, sizes: Sequence[int], width: int, depth: int) -> None:
        """`sizes` of what each token is decoded to; the last matrices are zero, so that a fresh model adds nothing."""
        super().__init__()
        widths = [width] * len(sizes)
        self.sizes = list(sizes)
        self.rest = nn.ModuleList(TokenLinear(widths, widths) for _ in range(depth - 1))
        self.last = TokenLinear(widths, sizes)
        for weight in self.last.weights:
            nn.init.zeros_(weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, B, W) of the decoded tokens to (B, P)."""
        for linear in self.rest:
            (tokens,) = (F.gelu(part) for part in linear([tokens]))  # (S, B, W)
        parts = self.last([tokens[group] for _, group in self.last.groups])  # (G, B, K) each
        outputs: list[Tensor] = [tokens] * len(self.sizes)
        for (_, group), part in zip(self.last.groups, parts, strict=True):
            for token, output in zip(group, part, strict=True):
                outputs[token] = output  # (B, K)
        return torch.cat(outputs, dim=1)  # (B, P)


class ScalarSinusoids(nn.Module):
    """A raw scalar x as [sin(f x), cos(f x), x] at frequencies 2^0 to 2^max, in radians per unit of x.

    The frequencies are those of the checkpoint, to the last bit: at 2^14 a difference in the last one shows. They are
    kept as the bits of float32 numbers, which `.to(bfloat16)` leaves alone: rounded, they would be off by 64 radians.
    """

    frequency_bits: Tensor

    def __init__(self, num_frequencies: int, max_frequency_log2: float) -> None:
        super().__init__()
        # not in the default type, which diffusers lowers while it loads a model in half precision
        frequencies = 2 ** torch.linspace(0, max_frequency_log2, num_frequencies, dtype=torch.float32)
        self.register_buffer("frequency_bits", frequencies.view(torch.int32))

    def forward(self, scalar: Tensor) -> Tensor:
        """(B,) of any float or integer type to (B, 2F+1) float32."""
        scalar = scalar.float()[:, None]  # (B, 1)
        phase = self.frequency_bits.view(torch.float32) * scalar  # (B, F)
        return torch.cat([phase.sin(), phase.cos(), scalar], dim=1)  # (B, 2F+1)


def linear(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Tokens (B, S, in) to (B, S, out), as `F.linear`; for float32 on the CPU as a 1x1 convolution.

    There `F.linear` is MKL's, whose code for AMD stops at AVX2, and convolutions are oneDNN's, whose does not. With
    gradients, for 832 tokens of width 256: 146 against 89 GFLOP/s (one core of an EPYC with AVX-512, torch 2.13).
    """
    plain = tokens.device.type != "cpu" or tokens.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
    if plain or not torch.backends.mkldnn.is_available():
        return F.linear(tokens, weight, bias)
    images = tokens[:, :, None].permute(0, 3, 1, 2)  # (B, in, S, 1), channels last in memory
    return F.conv2d(images, weight[:, :, None, None], bias).permute(0, 2, 3, 1)[:, :, 0]  # (B, S, out)


class TokensLinear(nn.Linear):
    """A linear layer shared by all tokens, computed by `linear`."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, S, in) to (B, S, out)."""
        return linear(tokens, self.weight, self.bias)


class ReferenceBlock(nn.Module):
    """Pre-norm block of full self-attention and an MLP of ratio 4."""

    def __init__(self, width: int, num_heads: int, attention_dropout: float, residual_dropout: float) -> None:
        super().__init__()
        self.num_heads, self.attention_dropout = num_heads, attention_dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        # query, key and value as one product: three times fewer, three times larger
        self.qkv, self.proj = TokensLinear(width, 3 * width), TokensLinear(width, width)
        self.mlp = nn.Sequential(TokensLinear(width, 4 * width), nn.GELU(), TokensLinear(4 * width, width))
        self.dropout = nn.Dropout(residual_dropout)

    def forward(self, tokens: Tensor, num_kept: int | None = None) -> Tensor:
        """(B, S, W) to (B, num_kept, W): tokens beyond the first `num_kept` are looked at, but not renewed."""
        normed = self.norm1(tokens)  # (B, S, W)
        if num_kept is None or num_kept == tokens.shape[1]:
            q, k, v = (self.heads(part) for part in self.qkv(normed).chunk(3, dim=-1))  # (B, H, S, W/H) each
        else:
            width = tokens.shape[-1]
            weights, biases = (p.split([width, 2 * width]) for p in (self.qkv.weight, self.qkv.bias))
            q = self.heads(linear(normed[:, :num_kept], weights[0], biases[0]))  # (B, H, num_kept, W/H)
            k, v = (self.heads(part) for part in linear(normed, weights[1], biases[1]).chunk(2, dim=-1))
            tokens = tokens[:, :num_kept]
        mixed = rearrange(self.attend(q, k, v), "b h s d -> b s (h d)")  # (B, num_kept, W)
        tokens = tokens + self.dropout(self.proj(mixed))  # (B, num_kept, W)
        return tokens + self.dropout(self.mlp(self.norm2(tokens)))  # (B, num_kept, W)

    def heads(self, tokens: Tensor) -> Tensor:
        """(B, S, W) to (B, H, S, W/H)."""
        return rearrange(tokens, "b s (h d) -> b h s d", h=self.num_heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention, in training with dropout of its weights."""
        if self.training and self.attention_dropout:
            return F.scaled_dot_product_attention(q, k, v, dropout_p=self.attention_dropout)
        return attention(q, k, v)


def init_weights(module: Any) -> None:
    """Linear layers: normal with standard deviation 0.02, no bias; everything else keeps its own initialisation."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(module.bias)
