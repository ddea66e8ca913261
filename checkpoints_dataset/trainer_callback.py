"""Recording what `transformers.Trainer` trains. Needs transformers: pip install "g-pt[trainer]"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from checkpoints_dataset.recorder import CheckpointRecorder, RunRecorder

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError('RecorderCallback needs transformers: pip install "g-pt[trainer]"') from error


class RecorderCallback(TrainerCallback):
    """Saves a checkpoint at every evaluation of the Trainer; each call of `train` is one run.

    With `eval_on_start=True` and `eval_strategy="steps"` in the TrainingArguments the first checkpoint is the network
    before training, where sampling starts. A training that ends by an exception leaves no run.
    """

    def __init__(self, recorder: CheckpointRecorder, metrics: Mapping[str, str] | None = None, **metadata: Any) -> None:
        """Record with a recorder.

        Args:
            recorder: where the runs go.
            metrics: the Trainer's name of each metric of the recorder; `eval_<name>` where it is not given.
            metadata: kept beside every run, with the learning rate and the seed.
        """
        self.recorder, self.metadata = recorder, metadata
        self.names = {name: f"eval_{name}" for name in recorder.metrics} | dict(metrics or {})
        self._run: RunRecorder | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Begin a run."""
        if state.is_world_process_zero:
            about = {"learning_rate": args.learning_rate, "seed": args.seed, **self.metadata}
            self._run = self.recorder.run(model, **about)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Save a checkpoint with the evaluation's metrics."""
        if self._run is None or state.global_step == self._last_step:
            return
        if missing := [name for name in self.names.values() if name not in metrics]:
            raise ValueError(
                f"the Trainer measured no {missing}, only {sorted(metrics)}: name them by RecorderCallback(metrics=...)"
            )
        self._run.save(state.global_step, **{ours: metrics[theirs] for ours, theirs in self.names.items()})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Finish the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    @property
    def _last_step(self) -> int | None:
        return self._run.last_step if self._run is not None else None
