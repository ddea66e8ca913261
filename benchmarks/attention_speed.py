"""Why attention on the CPU is two products and a softmax, and not PyTorch's fused kernel.

    python -m benchmarks.attention_speed

Forward and backward of both in bfloat16, for several numbers of tokens; the sides take turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.rounds import Measured, ratios, seconds_in_turn, table
from g_pt.model.transformer import attention
from g_pt.runtime.cpu_memory import keep_freed_memory
from g_pt.runtime.seeds import keyed_generator

HEADS, SIZE = 4, 64
TOKENS = {21: 256, 85: 64, 340: 16}  # as many networks as make the same number of rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    keep_freed_memory()
    lines: list[Measured] = []
    for tokens, networks in TOKENS.items():
        shape = (3, networks, HEADS, tokens, SIZE)
        inputs = torch.randn(shape, generator=keyed_generator(0)).bfloat16().requires_grad_()
        sides = {"two products": both_passes(attention, inputs), "fused": both_passes(fused, inputs)}
        seconds = seconds_in_turn(sides, args.rounds)
        lines += [
            Measured(f"{name}, {networks} x {tokens} tokens", "ms", [1e3 * s for s in values])
            for name, values in seconds.items()
        ]
        times = ratios(seconds["fused"], seconds["two products"])
        lines.append(Measured(f"fused against two products, {tokens} tokens", "times as long", times))
    print(table(lines))


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's."""
    return F.scaled_dot_product_attention(q, k, v)


def both_passes(function: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: Tensor) -> Callable[[int], object]:
    """Forward and backward, (3, B, H, S, d)."""

    def run(_: int) -> object:
        output = function(*inputs.unbind())
        return torch.autograd.grad(output, inputs, torch.ones_like(output))

    return run


if __name__ == "__main__":
    main()
