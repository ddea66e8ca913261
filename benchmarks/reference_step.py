"""How much faster a training step of the chunk-token model is than one in the reference's loop-over-tokens form.

    python benchmarks/reference_step.py --rounds 20 --json runs/reference_step.json

Same weights, same tokens (MNIST: 26 of up to 1,000 numbers), same batch, float32, in one process, a step of each in
turn, so that a slow minute of the machine meets both. A step is: loss, gradient, clipping, AdamW, moving average. The
loop side takes each as the reference's training does on a CPU: AdamW tensor by tensor, the average tensor by tensor;
ours as this toolkit trains: fused AdamW, the average in one call. `--model-only` times forward and backward alone.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.reference_loop import LoopTransformer
from g_pt.files.atomic import write_json
from g_pt.model.noise import NoiseSchedule
from g_pt.model.reference_scheduler import reference_alphas_cumprod
from g_pt.model.reference_transformer import ReferenceTransformer
from g_pt.networks.metrics import Metric
from g_pt.reference.splits import token_sizes
from g_pt.reference.weights import load_reference_state

LAYOUT = [["fc1.weight", [10, 784]], ["fc1.bias", [10]], ["fc2.weight", [10, 10]], ["fc2.bias", [10]]]
NUM_PARAMS, CHUNK = 7960, 1000
CLIP, DECAY, EMA = 0.75, 0.1, 0.9999


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8, help="steps of each side that count")
    parser.add_argument("--threads", type=int, help="of PyTorch; its own number where not given")
    parser.add_argument("--model-only", action="store_true", help="time forward and backward without the optimizer")
    parser.add_argument("--cpu-time", action="store_true", help="count the process's own seconds; for busy machines")
    parser.add_argument("--json", type=Path, help="where the numbers go, besides the line printed")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    sizes = (args.width, args.layers, args.heads, args.batch_size)
    clock = time.process_time if args.cpu_time else time.perf_counter
    results = measure(*sizes, args.rounds, model_only=args.model_only, clock=clock)
    medians = {name: statistics.median(seconds) for name, seconds in results["seconds"].items()}
    print(
        f"loop {1e3 * medians['loop']:.1f} ms, ours {1e3 * medians['ours']:.1f} ms a step: "
        f"{results['median_ratio']:.2f} times as fast ({min(results['ratios']):.2f} to {max(results['ratios']):.2f}); "
        f"largest difference of outputs {results['difference']:.1e}"
    )
    if args.json:
        write_json(args.json, results)


def measure(
    width: int,
    num_layers: int,
    num_heads: int,
    batch_size: int,
    num_rounds: int,
    *,
    model_only: bool,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Seconds of every step of both sides, and the ratio of each pair of neighbours."""
    torch.manual_seed(0)
    sizes = token_sizes([7840, 10, 100, 10], "chunk_within_layer", CHUNK, num_frequencies=128, absolute_metrics=True)
    loop = LoopTransformer(sizes.inputs, sizes.outputs, width=width, num_layers=num_layers, num_heads=num_heads)
    ours = ReferenceTransformer(
        LAYOUT, Metric("loss", "nats").to_json(), list(sizes.inputs), list(sizes.outputs),
        width=width, num_layers=num_layers, num_heads=num_heads,
    )  # fmt: skip
    load_reference_state(ours, loop.state_dict())
    batch = make_batch(batch_size)
    with torch.no_grad():
        difference = (loop(*batch[:5]) - ours(*batch[:5])).abs().max().item()
    steps = {"loop": loop_step(loop, batch, model_only), "ours": our_step(ours, batch, model_only)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(num_rounds + 2):  # two to warm up
        for name, step in steps.items():
            started = clock()
            step()
            if round_number >= 2:
                seconds[name].append(clock() - started)
    ratios = [slow / fast for slow, fast in zip(seconds["loop"], seconds["ours"], strict=True)]
    return {
        "seconds": seconds,
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
        "difference": difference,
        "settings": {
            "width": width,
            "layers": num_layers,
            "heads": num_heads,
            "batch_size": batch_size,
            "model_only": model_only,
            "clock": clock.__name__,
        },
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "torch": torch.__version__,
    }


def make_batch(batch_size: int) -> tuple[Tensor, ...]:
    """Arguments of the model, and the vectors (B, P) that it should predict."""
    generator = torch.Generator().manual_seed(0)
    x_0, x_start, noise = (torch.randn(batch_size, NUM_PARAMS, generator=generator) for _ in range(3))
    timesteps = torch.randint(1000, (batch_size,), generator=generator)
    starting, prompted = 2.3 * torch.rand(2, batch_size, generator=generator)
    x_t = NoiseSchedule.from_alphas_cumprod(reference_alphas_cumprod().float())[timesteps].add_noise(x_0, noise)
    return x_t, timesteps, x_start, starting, prompted, x_0


def loss_of(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Mean squared error of the prediction."""
    loss: Tensor = (model(*batch[:5]) - batch[5]).square().mean()
    return loss


def loop_step(model: nn.Module, batch: tuple[Tensor, ...], model_only: bool) -> Callable[[], None]:
    """A step in the reference's form."""
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=4e-4, foreach=False, fused=False)
    average = copy.deepcopy(model)

    def step() -> None:
        loss = loss_of(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if model_only:
            return
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        with torch.no_grad():
            current = dict(model.named_parameters())
            for name, parameter in average.named_parameters():
                parameter.mul_(EMA).add_(current[name], alpha=1 - EMA)
        loss.item()

    return step


def our_step(model: nn.Module, batch: tuple[Tensor, ...], model_only: bool) -> Callable[[], None]:
    """A step as this toolkit trains."""
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=4e-4, fused=True)
    parameters: list[Tensor] = list(model.parameters())
    averages = [parameter.detach().clone() for parameter in parameters]

    def step() -> None:
        loss = loss_of(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if model_only:
            return
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - EMA)
        loss.item()

    return step


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Matrices are decayed, the rest is not."""
    decayed = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    rest = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    return [{"params": decayed, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]


if __name__ == "__main__":
    main()
