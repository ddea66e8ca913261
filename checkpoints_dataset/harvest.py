"""Harvesting: training many networks as one tensor program and keeping their checkpoints.

R = runs of a shard, C = checkpoints of a run, P = parameters per network.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from checkpoints_dataset.capacity import check_capacity
from checkpoints_dataset.config import HarvestConfig, checkpoint_steps
from checkpoints_dataset.facts import unmoved, unmoved_metrics
from checkpoints_dataset.format import DatasetHeader
from checkpoints_dataset.shard_size import measured_size, recorded_size
from checkpoints_dataset.store import CheckpointStore
from checkpoints_dataset.writer import DatasetWriter
from g_pt.command_line.output import check_fits
from g_pt.files.folder_lock import folder_lock
from g_pt.runtime.cpu_memory import keep_freed_memory
from g_pt.runtime.processes import Team
from g_pt.runtime.seeds import global_generator_as, keyed_generator
from g_pt.tasks import get_task
from g_pt.tasks.base import PopulationTask, Task, TrainableTask, TrainedPopulation
from g_pt.update_rules.base import DrawnRule
from g_pt.update_rules.problem import follow, num_bytes
from g_pt.update_rules.registry import rule_name, single_rules

Progress = Callable[[int], object]  # called with the number of network-steps just taken


def harvest(
    config: HarvestConfig, folder: Path | str, *, progress: Progress | None = None, team: Team | None = None
) -> dict[int, str]:
    """Train `config.num_runs` networks and write their checkpoints to a dataset folder.

    Finished shards of an earlier, interrupted call are kept. Each shard depends on the seed and its own number
    only, so an interrupted harvest ends with the same bytes as an uninterrupted one, and one that many processes
    share, all of which call this, with the same bytes as that of one.

    Args:
        config: all settings.
        folder: of the dataset; several processes need the same one, on whatever hosts they are.
        progress: told of network-steps; the first process of several counts its own as the others' too.
        team: the processes that share the work; this one alone where not given.

    Returns:
        `{run: reason}` for the runs left out by this call, in this process.

    Raises:
        ValueError: the task cannot be trained, or not with these settings.
        StoreError: the folder holds something else, or another harvest is writing there.
    """
    team = team or Team()
    task = get_task(config.task)
    check_capacity(config, task, Path(folder))
    check_harvestable(task, config)
    with ExitStack() as stack:
        config, missing = agreed_work(team, folder, task, config, stack)
        header = make_header(config, task)
        finished = set(range(config.num_shards)) - set(missing)
        if progress is not None and finished:
            progress(sum(len(runs_of(config, shard)) for shard in finished) * config.num_steps)
        writer = DatasetWriter(folder, header, clean=False)
        left_out = write_shards(writer, task, config, team.part(missing), progress_of_all(progress, team))
        team.wait()  # the first process holds the lock for all
        return left_out


def harvest_with_progress(config: HarvestConfig, folder: Path, team: Team | None = None) -> CheckpointStore | None:
    """Harvest with a progress bar, and say what was left out; the first process of a team returns the dataset."""
    keep_freed_memory()
    team, total = team or Team(), config.num_runs * config.num_steps
    if not team.is_first:
        harvest(config, folder, team=team)
        return None
    with tqdm(total=total, desc="harvesting", unit="step", unit_scale=True, disable=None) as bar:
        harvest(config, folder, progress=lambda taken: bar.update(min(taken, total - bar.n)), team=team)
    store = CheckpointStore(folder)
    tqdm.write(
        f"{folder}: {len(store)} checkpoints of {len(store.runs)} runs, {len(store.left_out)} runs left out",
        file=sys.stderr,
    )
    for run, reason in list(store.left_out.items())[:5]:
        tqdm.write(f"  left out: run {run}, {reason}", file=sys.stderr)
    if not store.runs:
        raise ValueError(f"all {len(store.left_out)} runs were left out; lower the learning rate, or see above")
    for name, value in unmoved_metrics(store).items():
        tqdm.write(f"warning: {unmoved(name, value)}", file=sys.stderr)
    return store


def agreed_work(
    team: Team, folder: Path | str, task: Task, config: HarvestConfig, stack: ExitStack
) -> tuple[HarvestConfig, list[int]]:
    """Settings with the runs of a shard, and the shards that are not there yet, as the first process sees them.

    It locks the folder until the stack ends.

    Raises:
        StoreError, OSError: what the first process met, in every process.
    """
    missing: list[int] = []
    error: Exception | None = None
    if team.is_first:
        try:
            stack.enter_context(folder_lock(folder))  # only now: what cannot be harvested leaves no folder behind
            if config.runs_per_shard is None:
                size = recorded_size(folder) or measured_size(task, config, train_population)
                config = replace(config, runs_per_shard=size)
            writer = DatasetWriter(folder, make_header(config, task))
            missing = [shard for shard in range(config.num_shards) if not writer.is_finished(shard)]
        except (ValueError, OSError) as problem:
            error = problem
    agreed, missing, error = team.from_first((config.runs_per_shard, missing, error))
    if error is not None:
        raise error
    return replace(config, runs_per_shard=agreed), missing


def make_header(config: HarvestConfig, task: Task) -> DatasetHeader:
    """What all shards of the dataset share."""
    return DatasetHeader(
        task=task.name,
        layout=task.layout,
        metrics=dict(task.metrics),
        num_shards=config.num_shards,
        dtype=config.dtype,
        source=describe_source(config, task),
    )


def progress_of_all(progress: Progress | None, team: Team) -> Progress | None:
    """Progress that takes the other processes to be as fast as this one."""
    if progress is None or team.count == 1:
        return progress
    return lambda taken: progress(taken * team.count)


def runs_of(config: HarvestConfig, shard: int) -> range:
    """Numbers of the runs of a shard."""
    first = shard * config.at_once
    return range(first, min(first + config.at_once, config.num_runs))


def check_harvestable(task: Task, config: HarvestConfig) -> None:
    """Refuse, before anything is written, what `harvest` refuses."""
    if isinstance(task, PopulationTask):
        config.check_policies()
        return
    if not isinstance(task, TrainableTask):
        raise ValueError(f"task {config.task!r} cannot be harvested: it is no TrainableTask and no PopulationTask")
    if config.batch_size > task.num_examples:
        raise ValueError(
            f"batch_size must be at most {task.num_examples}, the number of examples, got {config.batch_size}"
        )
    runs = min(config.num_runs, config.at_once)
    for rule in single_rules(config.rule):
        size = runs * num_bytes(rule.init(task.layout.unflatten(task.init(1, torch.Generator())), task))
        check_fits(size, f"the state of rule {rule_name(rule)!r} for {runs:,} networks at once")
    if isinstance(config.rule, DrawnRule):
        for shard in {0, config.num_shards - 1}:  # the last may be smaller
            config.rule.draw(len(runs_of(config, shard)), torch.Generator())


def write_shards(
    writer: DatasetWriter, task: Task, config: HarvestConfig, shards: Sequence[int], progress: Progress | None
) -> dict[int, str]:
    """Train and write some shards; returns what `harvest` returns."""
    steps = checkpoint_steps(config.num_steps, config.num_checkpoints, config.spacing)
    left_out: dict[int, str] = {}
    for shard in shards:
        runs = runs_of(config, shard)
        generators = keyed_generator(config.seed, shard), keyed_generator(config.seed, shard, 1)
        trained = train_population(task, config, steps, len(runs), *generators, progress)
        reasons = [
            trained.lost.get(i)
            or rejection(checkpoints, config.max_abs_param)
            or unusable_metric({name: values[i] for name, values in trained.metrics.items()}, task)
            for i, checkpoints in enumerate(trained.params)
        ]
        kept = [i for i, reason in enumerate(reasons) if reason is None]
        rejected = {runs[i]: reason for i, reason in enumerate(reasons) if reason is not None}
        kept_metrics = {name: values[kept] for name, values in trained.metrics.items()}
        records = {runs[i]: trained.records[i] for i in kept}
        writer.write_shard(shard, trained.params[kept], steps, kept_metrics, records, left_out=rejected)
        left_out |= rejected
    return left_out


def train_population(
    task: Task,
    config: HarvestConfig,
    steps: list[int],
    num_runs: int,
    generator: torch.Generator,
    module_generator: torch.Generator,
    progress: Progress | None = None,
) -> TrainedPopulation:
    """Train the networks of a shard: those of a TrainableTask by the rule, others as their task does it.

    Args:
        task: what the networks are and learn.
        config: rule, batch size, dtype.
        steps: after which a checkpoint is kept, rising, the last being `config.num_steps`.
        num_runs: R.
        generator: of what each run draws from its rule, then of the inits and the mini-batches.
        module_generator: of what is random in the networks, such as dropout.
        progress: called after every step with the number of networks.

    Returns:
        Checkpoints in the dtype of the dataset; their metrics are measured on the parameters as they are stored.
    """
    dtype = getattr(torch, config.dtype)
    if isinstance(task, PopulationTask):
        with global_generator_as(module_generator):
            return task.train_population(num_runs, steps, config.ppo, generator, dtype=dtype, progress=progress)
    rule = config.rule
    records: list[dict[str, Any]] = [{} for _ in range(num_runs)]
    if isinstance(rule, DrawnRule):
        rule, records = rule.draw(num_runs, generator)
    path = follow(
        rule,
        task,
        task.init(num_runs, generator),
        generator,
        batch_size=config.batch_size,
        steps=steps,
        mixed_precision=config.mixed_precision,
        module_generator=module_generator,
        progress=progress,
    )
    kept: list[Tensor] = []
    measured: list[dict[str, Tensor]] = []
    for params, _ in path:
        kept.append(params.to(dtype))
        with torch.autocast("cpu", torch.bfloat16, enabled=config.mixed_precision == "bf16"):
            measured.append(task.evaluate(kept[-1].float(), "validation"))
    metrics = {name: torch.stack([m[name] for m in measured], dim=1) for name in task.metrics}
    name = rule_name(config.rule)
    return TrainedPopulation(torch.stack(kept, dim=1), metrics, [{"optimizer": name, **about} for about in records])


def describe_source(config: HarvestConfig, task: Task) -> dict[str, Any]:
    """How a dataset says it was made: settings, the task's name in place of its file, and which part of the data."""
    settings = config.to_json(policies=isinstance(task, PopulationTask))
    subset = task.data_subset if isinstance(task, TrainableTask) else None
    return {"kind": "harvest", **settings, "task": task.name} | ({"data": subset} if subset else {})


def rejection(checkpoints: Tensor, max_abs_param: float) -> str | None:
    """Why a run (C, P) is not kept, or None."""
    largest = checkpoints.float().abs().amax().item()  # NaN if any entry is
    if not math.isfinite(largest):
        return "non-finite parameters"
    if largest > max_abs_param:
        return f"largest |parameter| {largest:.3g} above {max_abs_param:g}"
    return None


def unusable_metric(measured: Mapping[str, Tensor], task: Task) -> str | None:
    """Why a run is not kept for its metrics, `{metric: (C,)}`, which no dataset may hold; or None."""
    for name, values in measured.items():
        if not values.isfinite().all():
            return f"{name} is not finite"
        if task.metrics[name].transform != "identity" and (values < 0).any():
            return f"{name} is negative, and shown as its {task.metrics[name].transform}"
    return None
