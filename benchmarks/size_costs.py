"""What a network of each size costs a model for any size: time and memory of a training step, and of a sampling step.

    python -m benchmarks.size_costs
    python -m benchmarks.size_costs --widths 16 64 --depths 1 2 --gradient-checkpointing

CPU time of one thread per network, products in bf16, the best of a few; memory is what the backward pass keeps. The
model is that of the preset digits-any-size, untrained: the weights do not matter. Sizes whose edges alone would need
more than `--most-gib` are left out.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from g_pt.files.atomic import write_json
from g_pt.model.transformer import ParameterTransformer
from g_pt.networks.training_facts import size_name
from g_pt.tasks import get_family
from g_pt.training.config import ModelConfig
from g_pt.training.setup import make_model

FAMILY = "digits[64-**-10]"
ROUNDS, MOST_AT_ONCE, EDGES_AT_ONCE = 3, 8, 1 << 14
BYTES_OF_AN_EDGE = 2_200  # that the backward pass keeps, at 32 channels and 4 layers


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--most-gib", type=float, default=1.5)
    parser.add_argument("--gradient-checkpointing", action="store_true", help="compute activations anew, backwards")
    parser.add_argument("--json", type=Path, help="where the numbers go, besides the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    family = get_family(FAMILY)
    task = family.member(family.default)
    model = make_model(task, "loss", ModelConfig(), num_train_timesteps=1000, seed=0, kinds=family.kinds())
    if args.gradient_checkpointing:
        model.train().enable_gradient_checkpointing()
    found = {}
    print(
        "| hidden | parameters | tokens | edges | sampling step | training step | kept |\n|---|---|---|---|---|---|---|"
    )
    for depth in args.depths:
        for width in args.widths:
            hidden = (width,) * depth
            edges = sum(a * b for a, b in pairwise(hidden))
            if edges * BYTES_OF_AN_EDGE > args.most_gib * 2**30:
                continue
            networks = max(1, min(MOST_AT_ONCE, EDGES_AT_ONCE // (edges + 8 * sum(hidden))))
            layout = family.member(hidden).layout
            member = model.member(layout, family.permutations(hidden))
            forward, both, kept = step_costs(member, layout.num_params, networks)
            name = size_name(hidden)
            found[name] = {"forward_seconds": forward, "step_seconds": both, "kept_bytes": kept, "edges": edges}
            print(
                f"| {name} | {layout.num_params:,} | {sum(member.tokens.plan.sizes) + 4} | {edges:,} | "
                f"{1e3 * forward:.1f} ms | {1e3 * both:.1f} ms | {kept / 2**20:.1f} MiB |",
                flush=True,
            )
    if args.json:
        write_json(args.json, found)


def step_costs(model: ParameterTransformer, num_params: int, networks: int) -> tuple[float, float, float]:
    """CPU seconds of a forward pass, of a forward and a backward pass, and bytes kept between them; of one network."""
    x_t, x_start = torch.randn(2, networks, num_params)
    timesteps, metrics = torch.randint(1000, (networks,)), torch.rand(networks) + 1
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    forwards, steps, kept = [], [], dict[int, int]()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    for _ in range(ROUNDS):
        kept.clear()
        started = time.process_time()
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            output = model(x_t, timesteps, x_start, metrics, metrics)
        forwards.append(time.process_time() - started)
        output.float().square().mean().backward()
        steps.append(time.process_time() - started)
    return min(forwards) / networks, min(steps) / networks, sum(kept.values()) / networks


if __name__ == "__main__":
    main()
