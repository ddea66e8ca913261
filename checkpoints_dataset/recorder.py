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
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from checkpoints_dataset.format import PARAMS, RUN, STEP, DatasetHeader
from checkpoints_dataset.recording import RECORDED, RecordedRun, Recording
from g_pt.files.schema import LARGEST, brief
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
        self.metrics = named(chosen or (LOSS,))
        self.layout = None if known is None else known.layout
        self._recording: Recording | None = None
        self._unfinished: list[RunRecorder] = []
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
        try:
            json.dumps(metadata)
        except (TypeError, ValueError) as error:
            raise ValueError(f"metadata of a run must be JSON: {error}") from error
        self.recording()
        run = RunRecorder(self, network, metadata)
        self._unfinished.append(run)
        return run

    def recording(self) -> Recording:
        """The dataset that runs are added to, opened where it is not; what is finished is packed at exit."""
        if self._recording is None:
            assert self.layout is not None
            source = {"kind": RECORDED, "runs_per_shard": self.runs_per_shard}
            header = DatasetHeader(self.task_name, self.layout, self.metrics, 1, self.dtype, source)
            self._recording = Recording(self.folder, header)
            atexit.register(self._close_at_exit)
        return self._recording

    def forget(self, run: RunRecorder) -> None:
        """Expect nothing more of a run, which is finished or dropped."""
        self._unfinished = [other for other in self._unfinished if other is not run]

    def close(self) -> None:
        """Bring all finished runs into the shards; more runs may follow.

        Raises:
            OSError: the folder is gone, or the disk is full.

        Warns:
            RunLeftOutWarning: a run with checkpoints is not finished.
        """
        if open_runs := [run for run in self._unfinished if run.last_step is not None]:
            warnings.warn(
                f"{len(open_runs)} runs with checkpoints are not finished, and not in the dataset: call finish(), or "
                "use `with recorder.run(network) as run`",
                RunLeftOutWarning,
                stacklevel=2,
            )
        if self._recording is not None:
            atexit.unregister(self._close_at_exit)
            recording, self._recording = self._recording, None
            recording.pack()

    def _close_at_exit(self) -> None:
        """Close, and say what cannot be done in one line: nobody can catch an error any more."""
        try:
            self.close()
        except (OSError, ValueError) as error:
            print(f"CheckpointRecorder: warning: {error}", file=sys.stderr)  # noqa: T201

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

    def __init__(self, recorder: CheckpointRecorder, network: nn.Module, metadata: dict[str, Any]) -> None:
        self._recorder, self._network, self._metadata = recorder, network, metadata
        self._params: list[Tensor] = []
        self._steps: list[int] = []
        self._metrics: dict[str, list[float]] = {name: [] for name in recorder.metrics}
        self._is_finished = False
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
            ValueError: the run is finished, the step does not rise, metrics are missing, unknown or negative where
                their logarithm is shown, or the network has other tensors than at the beginning.
        """
        if self._is_finished:
            raise ValueError(f"the run is finished: nothing more can be saved in it, got step {step}")
        if not 0 <= step < 2**63 or step != int(step):
            raise ValueError(f"a step must be a whole number from 0 on, got {step!r}")
        if self._steps and step <= self._steps[-1]:
            raise ValueError(f"steps must rise within a run, got {step} after {self._steps[-1]}")
        if set(metrics) != set(self._metrics):
            raise ValueError(f"every checkpoint needs the metrics {sorted(self._metrics)}, got {sorted(metrics)}")
        values = {n: float(v.detach() if isinstance(v, Tensor) else v) for n, v in metrics.items()}
        for name, value in values.items():
            if value < 0 and (transform := self._recorder.metrics[name].transform) != "identity":
                raise ValueError(
                    f"{name} must not be negative, since models see its {transform}, got {value:g}: give the recorder "
                    f"metrics=[Metric({name!r}, ...)] with the transform 'identity'"
                )
        params = self._current_params()
        if not params.isfinite().all():
            self._broken = self._broken or f"a parameter is not finite in {self._recorder.dtype} at step {step}"
        for name, value in values.items():
            if not abs(value) <= LARGEST:
                self._broken = self._broken or f"{name} is {value} at step {step}"
            self._metrics[name].append(value)
        self._params.append(params)
        self._steps.append(int(step))

    def _current_params(self) -> Tensor:
        layout = self._recorder.layout
        assert layout is not None
        try:
            return module_params(self._network, layout).to("cpu", getattr(torch, self._recorder.dtype))
        except ValueError as error:
            before, now = set(layout.names), set(ParameterLayout.from_module(self._network).names)
            raise ValueError(
                f"the network has other tensors than when the run began (new: {brief(sorted(now - before))}, gone: "
                f"{brief(sorted(before - now))}), as pruning and weight_norm make them: change it before "
                f"recorder.run(network), or undo it before save ({error})"
            ) from error

    def finish(self) -> None:
        """Write the run; one with fewer than two checkpoints, or a value that is not finite, is left out.

        Warns:
            RunLeftOutWarning: it was left out, and why.
        """
        if self._is_finished:
            return
        if len(self._steps) < 2:
            self._broken = self._broken or f"it has {len(self._steps)} checkpoints, pairs need two"
        if self._broken is not None:
            self._drop()
            warnings.warn(f"a run is left out: {self._broken}", RunLeftOutWarning, stacklevel=2)
            return
        run = RecordedRun(torch.stack(self._params), self._steps, self._metrics, self._metadata)
        self.number = self._recorder.recording().append(run)
        self._drop()

    def _drop(self) -> None:
        """End the run; its checkpoints are on disk by now, or not wanted."""
        self._is_finished, self._params = True, []
        self._recorder.forget(self)

    def __enter__(self) -> RunRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._is_finished:
            self.finish()
        self._drop()


def named(metrics: Sequence[Metric]) -> dict[str, Metric]:
    """Metrics by name, which no column of a dataset has and no other metric."""
    found: dict[str, Metric] = {}
    for metric in metrics:
        if metric.name in (RUN, STEP, PARAMS, "self"):
            raise ValueError(f"a metric must not be named {metric.name!r}, which a column of the dataset is: rename it")
        if metric.name in found:
            raise ValueError(f"metrics must have different names, got {metric.name!r} twice")
        found[metric.name] = metric
    return found
