"""Costs of the paper's own trainings with this code on 1, 8 and 64 GPUs, and their bottlenecks.

    python -m benchmarks.scaling_costs

Counted here: floating-point operations of a pair (matrix products of the forward pass as PyTorch counts them, three
times), parameters, and what autograd keeps of a pair under bfloat16 autocast. Each is linear in the number of blocks,
so models of one and two blocks tell it. Measured here, on this machine's cores: seconds to draw the pairs and the noise
of a step, as the training loop draws them: noise for the global batch in every process. Assumed: the GPUs below. A
step takes drawing, then the longer of computing and averaging gradients. Prints the tables of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ablations import PRESETS
from benchmarks.synthetic_store import write_random_store
from checkpoints_dataset.pair_sampler import PairSampler
from g_pt.files.yaml_files import read_yaml
from g_pt.model.reference_transformer import ReferenceTransformer
from g_pt.model.transformer import ParameterTransformer
from g_pt.reference.splits import token_sizes
from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks import get_task
from g_pt.training.config import ModelConfig, PairConfig, TrainConfig
from g_pt.training.denoising import draw_noise
from g_pt.training.setup import make_model

PRESET = "paper-mnist"
GPUS = (1, 8, 64)
# fp32 weights, gradients, moving average, two moments of AdamW; bfloat16 copies that autocast keeps during a step
BYTES_PER_PARAMETER = 4 + 4 + 4 + 8 + 2
GRADIENT_BYTES = 4


@dataclass(frozen=True)
class GPU:
    """Assumptions: makers' figures for dense bfloat16, and guesses of what is reached of it.

    Attributes:
        flops: per second, dense bfloat16, of the data sheet.
        used: share of it that a training reaches.
        memory: bytes.
        within: bytes per second at which a node of 8 averages gradients (bus bandwidth of a ring).
        between: the same between nodes, for each GPU.
    """

    name: str
    flops: float
    memory: float
    within: float
    between: float
    used: float = 0.4


A100 = GPU("A100 80 GB", 312e12, 80e9, 200e9, 20e9)
H100 = GPU("H100 80 GB", 989e12, 80e9, 350e9, 40e9)


@dataclass(frozen=True)
class Cost:
    """Of one model: operations and kept bytes of a pair, and parameters."""

    flops: float
    kept_bytes: float
    parameters: float

    def extrapolated(self, second: Cost, num_blocks: int) -> Cost:
        """From this, of one block, and another of two, to more."""
        pairs = zip(vars(self).values(), vars(second).values(), strict=True)
        return Cost(*(one + (num_blocks - 1) * (two - one) for one, two in pairs))


def main() -> None:
    """Count, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--used", type=float, default=0.4, help="share of the data sheets' operations that is reached")
    parser.add_argument("--preset", default=PRESET, help="whose model, batch size and steps are taken")
    args = parser.parse_args()
    config = preset(args.preset)
    costs = model_costs(config)
    batch, steps = config.pairs.batch_size, config.optimizer.num_steps
    print(f"{args.preset}: {steps:,} steps of {batch:,} pairs, {batch * steps / 1e6:.0f} M pairs\n")
    print(cost_table(costs, batch * steps))
    drawing = seconds_of_drawing(config)
    milliseconds = {name: round(1e3 * seconds, 1) for name, seconds in drawing.items()}
    print(f"\ndrawing {batch:,} pairs takes {milliseconds['pairs']} ms, their noise {milliseconds['noise']} ms\n")
    print("| tokens | GPUs | compute | gradients | drawing | a step | hours | memory of each | longest |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, cost in costs.items():
        for gpu in (A100, H100):
            for num in GPUS:
                print(scaling_row(name, cost, replace(gpu, used=args.used), num, batch, steps, drawing))


def preset(name: str) -> TrainConfig:
    """The parts of a preset that decide what it costs."""
    found = read_yaml(PRESETS / f"{name}.yaml")
    optimizer = replace(TrainConfig().optimizer, num_steps=found["optimizer"]["num_steps"])
    pairs = PairConfig(batch_size=found["pairs"]["batch_size"])
    return TrainConfig(task=found["task"], model=ModelConfig(**found["model"]), pairs=pairs, optimizer=optimizer)


def model_costs(config: TrainConfig) -> dict[str, Cost]:
    """The preset's width and depth with three kinds of tokens."""
    num_blocks, task = config.model.num_layers, get_task(config.task)

    def ours(tokenization: Literal["units", "chunks"]) -> Callable[[int], Cost]:
        def cost(blocks: int) -> Cost:
            model = replace(config.model, tokenization=tokenization, num_layers=blocks)
            return model_cost(make_model(task, config.metric, model, num_train_timesteps=1000, seed=0))

        return cost

    kinds = {"units": ours("units"), "chunks": ours("chunks")}
    if config.task == "mnist":
        kinds["the reference's"] = lambda blocks: model_cost(reference_model(config, blocks))
    return {kind: of(1).extrapolated(of(2), num_blocks) for kind, of in kinds.items()}


def reference_model(config: TrainConfig, num_blocks: int) -> ReferenceTransformer:
    """The reference's MNIST tokens: chunks of 1,000 of both vectors apart, 26 with the scalars."""
    task = get_task(config.task)
    sizes = token_sizes(list(task.layout.sizes), "chunk_within_layer", 1000, num_frequencies=128, absolute_metrics=True)
    return ReferenceTransformer(
        task.layout.to_json(), task.metric(config.metric).to_json(), list(sizes.inputs), list(sizes.outputs),
        width=config.model.width, num_layers=num_blocks, num_heads=config.model.num_heads,
    )  # fmt: skip


def model_cost(model: ParameterTransformer | ReferenceTransformer) -> Cost:
    """Counted on a few random pairs; what is kept is the difference between two and four, so that weights drop out."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*model_inputs(model, 2))
    kept = [bytes_kept(model, batch) for batch in (2, 4)]
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(3 * counter.get_total_flops() / 2, (kept[1] - kept[0]) / 2, parameters)


def model_inputs(model: ParameterTransformer | ReferenceTransformer, batch: int) -> tuple[Tensor, ...]:
    """Of `forward`."""
    x = torch.randn(2, batch, model.layout.num_params, generator=keyed_generator(0))
    return x[0], torch.zeros(batch, dtype=torch.int64), x[1], torch.ones(batch), torch.ones(batch)


def bytes_kept(model: ParameterTransformer | ReferenceTransformer, batch: int) -> int:
    """Of all tensors that autograd keeps for the backward pass under bfloat16 autocast, each counted once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, or its place would be given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        model(*model_inputs(model, batch))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def seconds_of_drawing(config: TrainConfig, rounds: int = 5) -> dict[str, float]:
    """Best seconds of a step's pairs and noise, for the global batch."""
    num_params = get_task(config.task).layout.num_params
    batch = config.pairs.batch_size

    def best(draw: Callable[[int], object]) -> float:
        seconds = []
        for step in range(rounds):
            started = time.perf_counter()
            draw(step)
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    with tempfile.TemporaryDirectory() as folder:  # networks of MNIST's size, whatever the preset
        sampler = PairSampler(write_random_store(Path(folder), 40), "loss", batch_size=batch, seed=0)
        pairs = best(sampler.batch) * num_params / sampler.store.header.layout.num_params
    noise = best(lambda step: draw_noise(0, step, 1000, (batch, num_params)))
    return {"pairs": pairs, "noise": noise}


def cost_table(costs: dict[str, Cost], num_pairs: int) -> str:
    """Markdown."""
    rows = [
        f"| {name} | {cost.parameters / 1e6:.0f} M | {cost.flops / 1e9:.1f} G | {cost.flops * num_pairs:.2g} | "
        f"{cost.kept_bytes / 1e6:.1f} MB | {cost.parameters * BYTES_PER_PARAMETER / 1e9:.1f} GB |"
        for name, cost in costs.items()
    ]
    head = "| tokens | parameters | FLOP a pair | of the training | kept of a pair | weights and their states |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def scaling_row(
    name: str, cost: Cost, gpu: GPU, num_gpus: int, batch: int, num_steps: int, drawing: dict[str, float]
) -> str:
    """One line: milliseconds of a step by parts, hours of the training, gigabytes of each GPU."""
    share = batch / num_gpus
    rate = gpu.within if num_gpus <= 8 else gpu.between
    seconds = {
        "compute": share * cost.flops / (gpu.flops * gpu.used),
        "gradients": 2 * (num_gpus - 1) / num_gpus * cost.parameters * GRADIENT_BYTES / rate,
        # each process draws its own pairs, but the noise of all
        "drawing": drawing["pairs"] / num_gpus + drawing["noise"],
    }
    step = seconds["drawing"] + max(seconds["compute"], seconds["gradients"])
    memory = cost.parameters * BYTES_PER_PARAMETER + share * cost.kept_bytes
    fits = "" if memory < gpu.memory else " (too much)"
    parts = " | ".join(f"{1e3 * value:.0f} ms" for value in seconds.values())
    return (
        f"| {name} | {num_gpus} x {gpu.name} | {parts} | {1e3 * step:.0f} ms | {step * num_steps / 3600:.1f} | "
        f"{memory / 1e9:.0f} GB{fits} | {max(seconds, key=seconds.__getitem__)} |"
    )


if __name__ == "__main__":
    main()
