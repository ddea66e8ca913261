"""How much of the machine's rate of matrix products a training step reaches.

    python -m benchmarks.training_step --rounds 15
    python -m benchmarks.training_step --rounds 15 --compile
    python -m benchmarks.training_step --width 256 --layers 6 --profile

A step is what the training loop does with a batch that is there: noise, loss, gradient, clipping, AdamW, moving
average; `digits` networks (21 tokens), batch 256. Counted are the floating-point operations of matrix products alone,
those of attention included: forward as PyTorch counts them, backward as twice as many. The machine's rate is that of
the best size of square product (1,024, 2,048, 4,096) in the same precision with as many threads, measured between the
steps; median against median. `--profile` prints where the time of a step goes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rounds import Measured, machine, ratios, seconds_in_turn, table
from g_pt.files.atomic import write_json
from g_pt.model.diffusion import diffusion_loss
from g_pt.model.normalization import ParameterNormalizer
from g_pt.model.pairs import CheckpointPairs
from g_pt.model.schedulers import noise_schedule, training_schedule
from g_pt.runtime.cpu_memory import keep_freed_memory
from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks import get_task
from g_pt.training.config import ModelConfig, OptimizerConfig
from g_pt.training.denoising import draw_noise
from g_pt.training.setup import make_model, make_optimizer


class Size(NamedTuple):
    """Of a model."""

    width: int
    num_layers: int
    num_heads: int


SIZES = {"small": Size(128, 4, 4), "medium": Size(256, 6, 4), "large": Size(512, 8, 8)}
BATCH = 256
SQUARES = (1024, 2048, 4096)
PARTS = ("noise", "forward", "backward", "optimizer", "average")


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, help="one model of this width instead of the three sizes")
    parser.add_argument("--layers", type=int, default=6, help="of that model")
    parser.add_argument("--heads", type=int, default=4, help="of that model")
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--precision", choices=["bf16", "no"], default="bf16")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, help="of PyTorch; its own number where not given")
    parser.add_argument("--compile", action="store_true", help="forward and backward by torch.compile")
    parser.add_argument("--memory-as-it-comes", action="store_true", help="let the C library return freed memory")
    parser.add_argument("--profile", action="store_true", help="print the operations that take longest")
    parser.add_argument("--json", type=Path, help="where the numbers go, besides the table")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.memory_as_it_comes:
        keep_freed_memory()
    sizes = {f"width {args.width}": Size(args.width, args.layers, args.heads)} if args.width else SIZES
    lines: list[Measured] = []
    results: dict[str, Any] = {"machine": machine(), "settings": vars(args) | {"json": str(args.json)}}
    for name, size in sizes.items():
        step = TrainingStep(size, args.batch_size, precision=args.precision, compiled=args.compile)
        lines += measure(name, step, args.rounds)
        print(f"{name}: {step.flops / 1e9:.1f} GFLOP a step; ms {step.describe_parts()}", flush=True)
        if args.profile:
            print(profile(step))
    print(table(lines))
    if args.json:
        write_json(args.json, results | {"lines": [line.to_json() for line in lines]})


class TrainingStep:
    """A model in training on random pairs of a task's networks."""

    def __init__(
        self,
        size: Size,
        batch_size: int = BATCH,
        *,
        task: str = "digits",
        precision: str = "bf16",
        compiled: bool = False,
    ) -> None:
        """Build all that a training builds; the moving average as the loop has it."""
        found = get_task(task)
        model = ModelConfig(**size._asdict())
        options = self.options = OptimizerConfig()
        self.precision = torch.bfloat16 if precision == "bf16" else torch.float32
        self.model = make_model(found, "loss", model, num_train_timesteps=1000, seed=0).train()
        self.optimizer = make_optimizer(self.model, options)
        self.average = EMAModel(self.model.parameters(), decay=options.ema_decay, foreach=True)
        self.normalizer = ParameterNormalizer(found.layout.num_params)
        self.schedule = training_schedule(noise_schedule())
        self.pairs = random_pairs(batch_size, found.layout.num_params)
        self.seconds: dict[str, list[float]] = {part: [] for part in PARTS}
        self.flops = 3 * self.forward_flops()
        self.forward: Callable[..., Tensor] = torch.compile(self.model) if compiled else self.model

    def __call__(self, step: int, pairs: CheckpointPairs | None = None) -> float:
        """Take one step; returns the loss."""
        pairs = self.pairs if pairs is None else pairs
        clock = [time.perf_counter()]
        timesteps, noise = draw_noise(0, step, len(self.schedule), (len(pairs), self.model.layout.num_params))
        clock.append(time.perf_counter())
        loss = self.loss(self.forward, pairs, timesteps, noise)
        clock.append(time.perf_counter())
        loss.backward()
        clock.append(time.perf_counter())
        nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        clock.append(time.perf_counter())
        self.average.step(self.model.parameters())
        clock.append(time.perf_counter())
        for part, started, ended in zip(PARTS, clock, clock[1:], strict=False):
            self.seconds[part].append(ended - started)
        return loss.item()

    def loss(self, model: Callable[..., Tensor], pairs: CheckpointPairs, timesteps: Tensor, noise: Tensor) -> Tensor:
        """As the loop computes it."""
        with torch.autocast("cpu", self.precision, enabled=self.precision != torch.float32):
            return diffusion_loss(model, self.normalizer, pairs, timesteps, noise, self.schedule)

    def forward_flops(self) -> int:
        """Of the matrix products of one forward pass, attention included."""
        timesteps = torch.zeros(len(self.pairs), dtype=torch.int64)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.loss(self.model, self.pairs, timesteps, self.pairs.starting_params)
        return counter.get_total_flops()

    def describe_parts(self) -> str:
        """Median milliseconds of each part of a step."""
        return ", ".join(f"{name} {1e3 * statistics.median(values):.1f}" for name, values in self.seconds.items())


def random_pairs(batch_size: int, num_params: int) -> CheckpointPairs:
    """Numbers of about the right size."""
    generator = keyed_generator(0)
    start, future = torch.randn(2, batch_size, num_params, generator=generator)
    metrics = 0.1 + torch.rand(2, batch_size, generator=generator)
    return CheckpointPairs(start, future, metrics[0], metrics[1])


def measure(name: str, step: TrainingStep, num_rounds: int) -> list[Measured]:
    """Rate of steps and of matrix products, and the share of the machine's that is."""
    sides: dict[str, Callable[[int], object]] = {"step": step} | squares(step.precision)
    seconds = seconds_in_turn(sides, num_rounds, warm_ups=3)
    for part in step.seconds.values():
        del part[:3]
    # rates of all sizes of squares; the best size is the one whose median is best
    rates = {size: [2 * size**3 / s / 1e9 for s in seconds[f"square {size}"]] for size in SQUARES}
    best = max(rates.values(), key=statistics.median)
    reached = [step.flops / s / 1e9 for s in seconds["step"]]
    return [
        Measured(f"training step, {name}", "networks/s", [len(step.pairs) / s for s in seconds["step"]]),
        Measured(f"training step, {name}: matrix products", "GFLOP/s", reached),
        Measured(f"training step, {name}: share of the machine's", "", ratios(reached, best)),
        Measured("square matrix products alone", "GFLOP/s", best),
    ]


def squares(dtype: torch.dtype) -> dict[str, Callable[[int], object]]:
    """Square matrix products of several sizes."""

    def product(size: int) -> Callable[[int], object]:
        factor, out = (
            torch.randn(size, size, generator=keyed_generator(size)).to(dtype),
            torch.empty(size, size, dtype=dtype),
        )
        return lambda _: torch.mm(factor, factor, out=out)

    return {f"square {size}": product(size) for size in SQUARES}


def profile(step: TrainingStep) -> str:
    """Table of the operations that take longest."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for number in range(3):
            step(number)
    return str(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60))


if __name__ == "__main__":
    main()
