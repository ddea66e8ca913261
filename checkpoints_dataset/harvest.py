"""Harvesting: training many networks as one tensor program and keeping their checkpoints.

R = runs of a shard, C = checkpoints of a run, P = parameters per network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from checkpoints_dataset.config import HarvestConfig, checkpoint_steps
from checkpoints_dataset.format import DatasetHeader
from checkpoints_dataset.optimizers import make_optimizer
from checkpoints_dataset.writer import DatasetWriter
from g_pt.seeds import keyed_generator
from g_pt.tasks import get_task
from g_pt.tasks.base import TrainableTask

Progress = Callable[[int], object]  # called with the number of network-steps just taken


def harvest(config: HarvestConfig, folder: Path | str, *, progress: Progress | None = None) -> dict[int, str]:
    """Train `config.num_runs` networks and write their checkpoints to a dataset folder.

    Finished shards of an earlier, interrupted call are kept. Each shard depends on the seed and its own number
    only, so an interrupted harvest ends with the same bytes as an uninterrupted one.

    Returns:
        `{run: reason}` for the runs left out by this call.
    """
    task = get_task(config.task)
    if not isinstance(task, TrainableTask):
        raise ValueError(f"task {config.task!r} cannot be harvested: it is not a TrainableTask")
    if config.batch_size > task.num_examples:
        raise ValueError(
            f"batch_size must be at most {task.num_examples}, the number of examples, got {config.batch_size}"
        )
    make_optimizer(config.optimizer, momentum=config.momentum, weight_decay=config.weight_decay)  # is there one?
    header = DatasetHeader(
        task=task.name,
        layout=task.layout,
        metrics=dict(task.metrics),
        num_shards=config.num_shards,
        dtype=config.dtype,
        source={"kind": "harvest", **asdict(config)} | ({"data": task.data_subset} if task.data_subset else {}),
    )
    steps = checkpoint_steps(config.num_steps, config.num_checkpoints, config.spacing)
    writer = DatasetWriter(folder, header)  # only now: settings that cannot be harvested leave no folder behind
    left_out: dict[int, str] = {}
    for shard in range(config.num_shards):
        first = shard * config.runs_per_shard
        runs = range(first, min(first + config.runs_per_shard, config.num_runs))
        if writer.is_finished(shard):
            if progress is not None:
                progress(len(runs) * config.num_steps)
            continue
        generator = keyed_generator(config.seed, shard)
        params, metrics = train_networks(task, config, steps, len(runs), generator, progress)
        reasons = [rejection(checkpoints, config.max_abs_param) for checkpoints in params]
        kept = [i for i, reason in enumerate(reasons) if reason is None]
        rejected = {runs[i]: reason for i, reason in enumerate(reasons) if reason is not None}
        kept_metrics = {name: values[kept] for name, values in metrics.items()}
        writer.write_shard(shard, params[kept], steps, kept_metrics, {runs[i]: {} for i in kept}, left_out=rejected)
        left_out |= rejected
    return left_out


def train_networks(
    task: TrainableTask,
    config: HarvestConfig,
    steps: list[int],
    num_networks: int,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Train R networks at once on shared mini-batches, with a cosine from the base learning rate to 0.

    Returns:
        Checkpoints (R, C, P) in the dtype of the dataset, and their validation metrics `{metric: (R, C)}`, measured
        on the parameters as they are stored.
    """
    params = task.layout.unflatten(task.init(num_networks, generator))
    tensors = {name: tensor.contiguous().requires_grad_() for name, tensor in params.items()}
    optimizers = [
        make_optimizer(config.optimizer, momentum=config.momentum, weight_decay=config.weight_decay) for _ in tensors
    ]
    dtype = getattr(torch, config.dtype)
    precision = torch.autocast("cpu", torch.bfloat16, enabled=config.mixed_precision == "bf16")
    kept: list[Tensor] = []
    measured: list[dict[str, Tensor]] = []
    keep = set(steps)
    batches = mini_batches(task.num_examples, config.batch_size, generator)
    for step in range(config.num_steps + 1):
        if step in keep:
            kept.append(task.layout.flatten({n: t.detach() for n, t in tensors.items()}).to(dtype))
            with precision:
                measured.append(task.evaluate(kept[-1].float(), "validation"))
        if step == config.num_steps:
            break
        with precision:
            losses = task.augmented_losses(tensors, next(batches), generator)
        # networks do not share parameters: one backward
        grads = torch.autograd.grad(losses.sum(), list(tensors.values()))
        learning_rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.num_steps))
        for optimizer, tensor, grad in zip(optimizers, tensors.values(), grads, strict=True):
            optimizer.step(tensor, grad.contiguous(), learning_rate)
        if progress is not None:
            progress(num_networks)
    metrics = {name: torch.stack([m[name] for m in measured], dim=1) for name in task.metrics}
    return torch.stack(kept, dim=1), metrics


def mini_batches(num_examples: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless mini-batches of example indices: every epoch in a new order, an incomplete last batch dropped."""
    while True:
        order = torch.randperm(num_examples, generator=generator)
        yield from (batch for batch in order.split(batch_size) if len(batch) == batch_size)


def rejection(checkpoints: Tensor, max_abs_param: float) -> str | None:
    """Why a run (C, P) is not kept, or None."""
    largest = checkpoints.float().abs().amax().item()  # NaN if any entry is
    if not math.isfinite(largest):
        return "non-finite parameters"
    if largest > max_abs_param:
        return f"largest |parameter| {largest:.3g} above {max_abs_param:g}"
    return None
