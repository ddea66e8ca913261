"""The Accelerator of a training: it joins all processes that were launched, on GPUs or on CPUs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    ProjectConfiguration,
)
from torch import nn

from g_pt.runtime.cpu_memory import keep_freed_memory
from g_pt.runtime.processes import PATIENCE, check_launch, cpu_threads_of_a_process, launched_processes
from g_pt.training.trackers import check_trackers


def make_accelerator(output: Path, *, mixed_precision: str, trackers: Sequence[str] = ()) -> Accelerator:
    """Join the processes of this launch; trackers write into the output folder.

    Raises:
        ValueError: the launch made something else than one program of as many processes as were asked for, or shards
            the model in a way that is not supported, or a tracker is not installed.
    """
    check_launch()
    check_trackers(trackers)
    # without a word from the launcher Accelerate takes several processes on CPUs for as many programs
    several_cpus = launched_processes() > 1 and "RANK" in os.environ and not torch.accelerator.is_available()
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        cpu=several_cpus,
        log_with=list(trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(output), logging_dir=str(output)),
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=PATIENCE),
            # the model's buffers never change, and alignment calls it several times before each backward
            DistributedDataParallelKwargs(broadcast_buffers=False),
        ],
    )
    check_processes(accelerator.num_processes)
    check_sharding(accelerator)
    return accelerator


def check_processes(num_processes: int) -> None:
    """Refuse a launch that made several programs of one process each instead of one program of several."""
    wanted = launched_processes()
    if num_processes != wanted:
        raise ValueError(
            f"{wanted} processes were launched, but Accelerate joins {num_processes}; on CPUs set "
            "ACCELERATE_USE_CPU=true"
        )


def prepared(model: nn.Module, optimizer: Any, accelerator: Accelerator) -> tuple[nn.Module, Any]:
    """The model and its optimizer as Accelerate hands them out."""
    with warnings.catch_warnings():  # PyTorch 2.13 renames an option that Accelerate passes on by its old name
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*deprecated")
        wrapped, optimizer = accelerator.prepare(model, optimizer)
    return wrapped, optimizer


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether every process holds only a part of the weights, so that all must take part in every forward."""
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def check_sharding(accelerator: Accelerator) -> None:
    """Refuse what has not been built: other ways to shard than FSDP 2, which leaves the modules as they are."""
    kind = accelerator.distributed_type
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ValueError(f"models are sharded by FSDP only, got {kind.value}; see docs/training.md")
    if is_sharded(accelerator) and not accelerator.is_fsdp2:
        raise ValueError("FSDP must be version 2: set fsdp_version: 2 in Accelerate's configuration")


def use_cpu_threads(num_threads: int | None, device: torch.device) -> None:
    """Set the threads of this process: as asked for, or as `cpu_threads_of_a_process` has them. Keep freed memory."""
    if device.type == "cpu":
        keep_freed_memory()
        torch.set_num_threads(num_threads or cpu_threads_of_a_process())
