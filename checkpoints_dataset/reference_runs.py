"""The runs that a model was trained on, as tensors: read from their dataset, or harvested again.

A model says how its runs were made, and a harvest depends on its settings alone: runs need not be shipped with a model
to be compared with it.

R = runs, P = parameters per network.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.facts import row_numbers
from checkpoints_dataset.format import RULES, RunRecord, split_of
from checkpoints_dataset.harvest import harvest
from checkpoints_dataset.store import CheckpointStore
from g_pt.evaluation.runs import ReferenceRuns, RunSet
from g_pt.files.config import merge
from g_pt.networks.training_facts import TrainingFacts
from g_pt.tasks import registered_task
from g_pt.tasks.base import Split, Task, TrainableTask

CACHE_VARIABLE = "G_PT_CACHE"
MAX_BYTES = 1 << 30  # of each of the two sets of starts and ends
# of a harvest that a model's file asks for: hours of two cores, and what memory and disk may have left
LIMITS = {
    "steps of training": 10**9,
    "checkpoints of a run": 5_000,
    "examples in all steps": 2 * 10**10,
    "examples at once": 10**7,
    "MB": 50 << 10,
    "MB of a shard": 1 << 10,
}
NUM_CHECKPOINTS = 20_000
NUM_TRAJECTORIES = 128
NUM_HELD_OUT = 512


def reference_runs(
    store: CheckpointStore,
    metric: str,
    *,
    max_runs: int | None = None,
    num_checkpoints: int = NUM_CHECKPOINTS,
    num_trajectories: int = NUM_TRAJECTORIES,
    max_bytes: int = MAX_BYTES,
    seed: int = 0,
) -> ReferenceRuns:
    """Read the training and the test runs of a dataset.

    Args:
        store: the dataset.
        metric: the prompted one.
        max_runs: as many training runs as the model saw; all where not given.
        num_checkpoints: most checkpoints drawn from all runs of a split.
        num_trajectories: runs of which all checkpoints are read.
        max_bytes: of the starts and ends of a split; where they are more, runs are drawn at random.
        seed: of the drawing.
    """
    splits: tuple[tuple[Split, int | None], ...] = (("train", max_runs), ("test", None))
    sets = [
        run_set(store, metric, store.some_runs_of(split)[:most], num_checkpoints, num_trajectories, max_bytes, seed)
        for split, most in splits
    ]
    return ReferenceRuns(training=sets[0], held_out=sets[1])


def run_set(
    store: CheckpointStore,
    metric: str,
    runs: list[RunRecord],
    num_checkpoints: int,
    num_trajectories: int,
    max_bytes: int,
    seed: int,
) -> RunSet:
    """Starts, ends, random checkpoints and first trajectories of some runs."""
    generator = np.random.default_rng(seed)
    row_bytes = 4 * store.header.layout.num_params
    values = torch.from_numpy(store.metrics[metric])
    num_runs = min(len(runs), max(2, max_bytes // (2 * row_bytes)))
    kept = [runs[i] for i in np.sort(generator.permutation(len(runs))[:num_runs])]
    starts = np.array([r.first_row for r in kept])
    ends = np.array([r.first_row + r.num_checkpoints - 1 for r in kept])
    rows = row_numbers(runs)
    drawn = np.sort(generator.permutation(rows)[: min(num_checkpoints, max(2, max_bytes // row_bytes))])
    # of policies and of imported data, runs may differ in length
    traced = [r for r in runs if r.num_checkpoints == runs[0].num_checkpoints]
    traced = traced[: max(1, min(num_trajectories, max_bytes // (row_bytes * runs[0].num_checkpoints)))]
    trajectories = store.params(row_numbers(traced)).view(len(traced), runs[0].num_checkpoints, -1)
    return RunSet(
        starts=store.params(starts),
        ends=store.params(ends),
        end_metric=values[ends],
        checkpoints=store.params(drawn),
        checkpoint_metric=values[drawn],
        trajectories=trajectories,
        steps=torch.from_numpy(store.step[row_numbers(traced[:1])].astype(np.int64)),
        layout=store.header.layout,
    )


def reference_store(
    facts: TrainingFacts, folder: Path | None = None, *, num_held_out: int = NUM_HELD_OUT
) -> CheckpointStore:
    """Harvest the training runs of a model again, or reuse what was harvested before.

    Shards are as in the model's own dataset; only as many of the first ones are made as hold the training runs and
    some test runs. The bytes are those of the original on machines that round as the one did that made it; elsewhere
    runs part from the originals as they go on, which `same_runs` finds out.

    Args:
        facts: `pipeline.facts`.
        folder: where datasets are kept; $G_PT_CACHE or ~/.cache/g_pt where not given.
        num_held_out: test runs that are wanted; fewer where the original had fewer.

    Raises:
        ValueError: the model does not say how its runs were made, or they were not harvested, or made from another
            part of the data.
    """
    settings = harvest_settings(facts)
    task = registered_task(settings.task)
    num_training = facts.dataset.num_runs or settings.num_runs
    config = settings
    for num_runs in candidate_sizes(settings, num_training, num_held_out):
        config = merge(settings, {"num_runs": num_runs}, "harvest")
        check_effort(config, task)
        store = harvested(config, dataset_folder(config, folder)).of_rules(facts.dataset.source.get(RULES, ()))
        if len(store.runs_of("train")) >= num_training and len(store.runs_of("test")) >= num_held_out:
            break
    return store


def harvest_settings(facts: TrainingFacts) -> HarvestConfig:
    """How the training runs of a model were harvested."""
    source = dict(facts.dataset.source)
    if source.pop("kind", None) != "harvest":
        raise ValueError(
            "the model does not say how its training runs were harvested, so that they cannot be made again: "
            "give the folder of its dataset"
        )
    source.pop(RULES, None)  # of all these runs
    subset = source.pop("data", None)
    task = registered_task(source["task"])  # the name is a stranger's: it imports no file
    own = task.data_subset if isinstance(task, TrainableTask) else None
    if subset != own:
        raise ValueError(
            f"the training runs of the model saw the data {subset or 'as a whole'!r}, here is {own or 'all of it'!r}: "
            "give the folder of its dataset, or the data it was made from (--data-dir)"
        )
    return merge(HarvestConfig(), source, "settings of the model's training runs")


def check_effort(config: HarvestConfig, task: Task) -> None:
    """Refuse to harvest more than stated limits because a file says so.

    Raises:
        ValueError: the runs take more steps, examples, memory or space on the disk than `LIMITS`.
    """
    at_once = min(config.at_once, config.num_runs)
    run_bytes = config.num_checkpoints * task.layout.num_params * (4 if config.dtype == "float32" else 2)
    is_trained = isinstance(task, TrainableTask)
    examples = config.batch_size if is_trained else config.ppo.num_envs * config.ppo.n_steps
    steps = config.num_runs * config.num_steps
    needed = {
        "steps of training": steps,
        "checkpoints of a run": config.num_checkpoints,
        "examples in all steps": steps * examples * (1 if is_trained else config.ppo.n_epochs),
        "examples at once": at_once * examples,
        "MB": config.num_runs * run_bytes >> 20,
        "MB of a shard": at_once * run_bytes >> 20,
    }
    for what, number in needed.items():
        if number > LIMITS[what]:
            raise ValueError(
                f"the training runs of the model take {number:,} {what}, more than the {LIMITS[what]:,} that are made "
                "again unasked: give the folder of its dataset"
            )


def candidate_sizes(config: HarvestConfig, num_training: int, num_held_out: int) -> list[int]:
    """Numbers of runs to try: whole shards that hold enough where no run is left out, then all.

    A shard's networks are drawn together: a part of a shard would hold other ones.
    """
    counts: dict[str, int] = {"train": 0, "validation": 0, "test": 0}
    for run in range(config.num_runs):
        counts[split_of(run)] += 1
        if counts["train"] >= num_training and counts["test"] >= num_held_out:
            whole = config.at_once * math.ceil((run + 1) / config.at_once)
            return [whole, config.num_runs] if whole < config.num_runs else [config.num_runs]
    return [config.num_runs]


def harvested(config: HarvestConfig, folder: Path) -> CheckpointStore:
    """A dataset from its folder; what is missing is made first, with a bar on a terminal."""
    total = config.num_runs * config.num_steps
    with tqdm(total=total, desc="harvesting the training runs", unit="step", unit_scale=True, disable=None) as bar:
        harvest(config, folder, progress=bar.update)
    return CheckpointStore(folder, verify=False)


def dataset_folder(config: HarvestConfig, folder: Path | None = None) -> Path:
    """Where the runs of these settings are kept: a name of the task, their number and a digest of all settings."""
    if folder is None:
        folder = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "g_pt")
    settings = config.to_json() | config.to_json(policies=True)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return folder / "runs" / f"{config.task.replace('/', '-')}-{config.num_runs}-{digest}"


def same_runs(store: CheckpointStore, facts: TrainingFacts, metric: str) -> bool:
    """Whether these are the model's training runs, by the range of their metric, which is recorded to the last digit.

    Runs that were made again on a machine that rounds otherwise are of the same kind, but not the same: a distance to
    them says nothing about the memory of single runs.
    """
    runs = store.some_runs_of("train")[: facts.dataset.num_runs]
    values = store.metrics[metric][row_numbers(runs)]
    return (float(values.min()), float(values.max())) == facts.prompt_range
