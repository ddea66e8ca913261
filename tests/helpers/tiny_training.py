"""A dataset and settings with which a G.pt trains in about a second."""

import atexit
import shutil
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.facts import fit_normalizer, training_facts
from checkpoints_dataset.harvest import harvest
from checkpoints_dataset.pair_sampler import PairSampler
from checkpoints_dataset.store import CheckpointStore
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.tasks import get_task
from g_pt.training.alignment import align
from g_pt.training.config import AlignmentConfig, ModelConfig, OptimizerConfig, PairConfig, ProgressConfig, TrainConfig
from g_pt.training.log import TrainingLog
from g_pt.training.loop import fit

TINY_HARVEST = HarvestConfig(num_runs=40, num_steps=60, num_checkpoints=8, runs_per_shard=20)
TINY_ALIGNMENT = AlignmentConfig(num_steps=5, batch_size=8, num_examples=32)


@cache
def tiny_harvest() -> Path:
    """The dataset of `TINY_HARVEST`, made once; not to be changed."""
    parent = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, parent)
    harvest(TINY_HARVEST, Path(parent) / "checkpoints")
    return Path(parent) / "checkpoints"


def tiny_store(folder: Path) -> CheckpointStore:
    """A copy of that dataset."""
    return CheckpointStore(shutil.copytree(tiny_harvest(), folder, dirs_exist_ok=True))


def tiny_config(output: Path, num_steps: int = 12) -> TrainConfig:
    return TrainConfig(
        output=output,
        model=ModelConfig(width=16, num_layers=1, num_heads=2, num_frequencies=4),
        pairs=PairConfig(batch_size=8),
        optimizer=OptimizerConfig(num_steps=num_steps, warmup_steps=3, mixed_precision="no", cpu_threads=1),
        progress=ProgressConfig(evaluate_every=6, num_networks=4, num_prompts=3, save_every=4),
    )


def train(
    config: TrainConfig,
    store: CheckpointStore,
    *,
    resume: bool = False,
    stop_at: int | None = None,
    held_out: bool = False,
    accelerator: Accelerator | None = None,
) -> ParameterUpdatePipeline:
    """Train; with `stop_at`, break off with KeyboardInterrupt before that step, as a kill would.

    Pictures would cost more than the steps do: they are drawn only for an accelerator that is given, which may track.
    """
    if accelerator is None:
        AcceleratorState._reset_state(reset_partial_state=True)  # one process, several trainings of other precision
    task = get_task("digits")
    sampler = PairSampler(store, config.metric, batch_size=config.pairs.batch_size, seed=config.seed)

    def pairs(step: int, part: slice) -> object:
        if step == stop_at:
            raise KeyboardInterrupt
        return sampler.batch(step, part)

    validation = PairSampler(store, config.metric, split="validation", batch_size=config.pairs.batch_size, seed=0)
    with without_pictures() if accelerator is None else nullcontext():
        return fit(
            config,
            task,
            pairs,  # type: ignore[arg-type]
            fit_normalizer(store, "global"),
            training_facts(store, task, config.metric),
            held_out=validation.batch if held_out else None,
            accelerator=accelerator,
            resume=resume,
        )


def train_aligned(
    config: TrainConfig,
    store: CheckpointStore,
    base: Path,
    *,
    resume: bool = False,
    stop_at: int | None = None,
    run_ends: Tensor | None = None,
) -> ParameterUpdatePipeline:
    """The second stage from a saved pipeline on; `stop_at` as for `train`."""
    AcceleratorState._reset_state(reset_partial_state=True)
    sampler = PairSampler(store, config.metric, batch_size=config.pairs.batch_size, seed=config.seed)

    def pairs(step: int, part: slice) -> object:
        if step == stop_at:
            raise KeyboardInterrupt
        return sampler.batch(step, part)

    pipeline = ParameterUpdatePipeline.from_pretrained(base)
    pipeline.set_progress_bar_config(disable=True)
    with without_pictures():
        return align(config, get_task("digits"), pipeline, pairs, run_ends=run_ends, resume=resume)  # type: ignore[arg-type]


def without_pictures() -> AbstractContextManager[object]:
    """Let the log draw nothing."""
    return patch.object(TrainingLog, "draw", lambda log: None)


def weights(config: TrainConfig) -> dict[str, object]:
    pipeline = ParameterUpdatePipeline.from_pretrained(config.pipeline_folder)
    return dict(pipeline.transformer.state_dict())


__all__ = [
    "TINY_ALIGNMENT",
    "TINY_HARVEST",
    "replace",
    "tiny_config",
    "tiny_store",
    "train",
    "train_aligned",
    "weights",
]
