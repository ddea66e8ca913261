"""Recording the runs of a training loop of one's own.

    with CheckpointRecorder("runs/mine/checkpoints", "mine") as recorder:
        for network in networks:
            with recorder.run(network) as run:
                ...  # train, and as often as you like:
                run.save(step, loss=validation_loss)

C = checkpoints of a run, P = parameters per network.
"""

from __future__ import annotations

import atexit
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from checkpoints_dataset.format import DatasetHeader
from checkpoints_dataset.recording import RECORDED, RecordedRun, Recording
from g_pt.networks.metrics import Metric
from g_pt.networks.modules import module_params
from g_pt.networks.parameters import ParameterLayout
from g_pt.tasks import get_task, task_names
from g_pt.tasks.base import Task

LOSS = Metric("loss", unit="", minimize=True, transform="log")


class RunLeftOutWarning(UserWarning):
    """A run was not recorded; the message says why."""


class CheckpointRecorder:
    """Adds the runs of any training loop to a checkpoint dataset.

    Several programs may record into one folder at the same time, and later ones add to it. Every finished run is on
    disk at once; a run that was not finished leaves nothing. Of every 20 runs, the 19th is for validation and the 20th
    for test, as in a harvest.
    """

    def __init__(
        self,
        folder: Path | str,
        task: str | Task,
        metrics: Sequence[Metric] | None = None,
        *,
        dtype: str = "float32",
        runs_per_shard: int = 250,
    ) -> None:
        """Prepare to record; the folder is made with the first run.

        Args:
            folder: of the dataset; must be empty, missing, or recorded with the same settings.
            task: whose networks these are: a task, what `get_task` takes, or the name that your task will have.
            metrics: measured on the validation split at each checkpoint; those of the task where it exists already,
                else only a `loss` to be minimised.
            dtype: of the parameters on disk, float32 or float16. What you measure is the network before rounding.
            runs_per_shard: a file of the dataset has so many runs.
        """
        if isinstance(task, str) and (":" in task or task in task_names()):
            task = get_task(task)
        known = task if isinstance(task, Task) else None
        self.folder, self.dtype, self.runs_per_shard = Path(folder), dtype, runs_per_shard
        self.task_name = task if isinstance(task, str) else task.name
        chosen = tuple(known.metrics.values()) if metrics is None and known is not None else metrics
        self.metrics = {metric.name: metric for metric in chosen or (LOSS,)}
        self.layout = None if known is None else known.layout
        self._recording: Recording | None = None
        if runs_per_shard < 1:
            raise ValueError(f"runs_per_shard must be at least 1, got {runs_per_shard}")

    def run(self, network: nn.Module, **metadata: Any) -> RunRecorder:
        """Begin a run of a network: a context manager, which ends it; after an exception the run is dropped.

        Args:
            network: any module; its parameters and floating-point buffers are recorded.
            metadata: kept beside the run, JSON: a seed, a learning rate.

        Raises:
            StoreError: the folder holds something else, or networks with other tensors.
            ValueError: the network is none of the task; the message names the first tensor that differs.
        """
        if self.layout is None:
            self.layout = ParameterLayout.from_module(network)
        module_params(network, self.layout)  # refuse another architecture now, not after the training
        if self._recording is None:
            source = {"kind": RECORDED, "runs_per_shard": self.runs_per_shard}
            header = DatasetHeader(self.task_name, self.layout, self.metrics, 1, self.dtype, source)
            self._recording = Recording(self.folder, header)
            atexit.register(self.close)
        return RunRecorder(self._recording, network, metadata)

    def close(self) -> None:
        """Bring all finished runs into the shards; more runs may follow."""
        if self._recording is not None:
            atexit.unregister(self.close)
            self._recording.pack()
            self._recording = None

    def __enter__(self) -> CheckpointRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RunRecorder:
    """One run in the making; in memory until it is finished.

    Attributes:
        number: of the run in the dataset; None until it is finished, and for a run that was left out.
    """

    def __init__(self, recording: Recording, network: nn.Module, metadata: dict[str, Any]) -> None:
        self._recording, self._network, self._metadata = recording, network, metadata
        self._params: list[Tensor] = []
        self._steps: list[int] = []
        self._metrics: dict[str, list[float]] = {name: [] for name in recording.header.metrics}
        self._broken: str | None = None
        self.number: int | None = None

    @property
    def last_step(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._steps[-1] if self._steps else None

    def save(self, step: int, **metrics: float | Tensor) -> None:
        """Keep a checkpoint of the network as it is now.

        The first one is best saved before training, at step 0, since sampling starts there.

        Args:
            step: optimizer steps taken so far, rising.
            metrics: every metric of the dataset, raw, measured on the validation split.

        Raises:
            ValueError: the step does not rise, or metrics are missing or unknown.
        """
        if self._steps and step <= self._steps[-1]:
            raise ValueError(f"steps must rise within a run, got {step} after {self._steps[-1]}")
        if set(metrics) != set(self._metrics):
            raise ValueError(f"every checkpoint needs the metrics {sorted(self._metrics)}, got {sorted(metrics)}")
        header = self._recording.header
        params = module_params(self._network, header.layout).to("cpu", getattr(torch, header.dtype))
        values = {n: float(v.detach() if isinstance(v, Tensor) else v) for n, v in metrics.items()}
        if not params.isfinite().all():
            self._broken = self._broken or f"a parameter is not finite in {header.dtype} at step {step}"
        for name, value in values.items():
            if not math.isfinite(value):
                self._broken = self._broken or f"{name} is {value} at step {step}"
            self._metrics[name].append(value)
        self._params.append(params)
        self._steps.append(int(step))

    def finish(self) -> None:
        """Write the run; one with fewer than two checkpoints, or a value that is not finite, is left out.

        Warns:
            RunLeftOutWarning: it was left out, and why.
        """
        if len(self._steps) < 2:
            self._broken = self._broken or f"it has {len(self._steps)} checkpoints, pairs need two"
        if self._broken is not None:
            warnings.warn(f"a run is left out: {self._broken}", RunLeftOutWarning, stacklevel=2)
            return
        run = RecordedRun(torch.stack(self._params), self._steps, self._metrics, self._metadata)
        self.number = self._recording.append(run)

    def __enter__(self) -> RunRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
