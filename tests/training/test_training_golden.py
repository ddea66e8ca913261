"""Twenty losses of each training stage, as they were recorded: what is done to the code must not move them.

Record them anew, where a change of the training itself is meant, by `RECORD_GOLDEN=1 pytest` of this file, and say in
the commit why they moved.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from builders import build_pipeline, randomise
from tiny_training import tiny_config

from g_pt.model.normalization import ParameterNormalizer
from g_pt.model.pairs import CheckpointPairs
from g_pt.tasks import get_task
from g_pt.tasks.base import Task
from g_pt.tasks.supervised import SupervisedTask
from g_pt.training.alignment import align
from g_pt.training.config import AlignmentConfig, TrainConfig
from g_pt.training.log import TrainingLog, kept_lines
from g_pt.training.loop import fit

GOLDEN = Path(__file__).parent / "golden"
NUM_STEPS = 20
RANGES = {
    "digits": {"prompt_range": [2.0, 8.0], "attainable_range": [2.2, 6.0]},
    "cartpole": {"prompt_range": [8.0, 200.0], "attainable_range": [100.0, 10.0]},
}
# Relative. Noise of 1e-6 on every output of the model, as another order of sums makes it, moves the losses by at most
# 1.2e-6 (evolution; 5e-7 the other stages); a learning rate 2 % higher moves them by more than 1e-3.
TOLERANCE = 1e-4


def pairs_of_scaled_networks(task: Task) -> Callable[[int, slice], CheckpointPairs]:
    """Pairs of any step that depend on no harvest: networks that were scaled up, and again scaled halfway back."""

    def metric_of(params: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if isinstance(task, SupervisedTask):  # the second stage compares it with the training metric
            return task.evaluate(params, "validation")["loss"]
        return 10 + 90 * torch.rand(len(params), generator=generator)

    def pairs(step: int, share: slice) -> CheckpointPairs:
        generator = torch.Generator().manual_seed(1000 + step)
        scales = 1 + 3 * torch.rand(8, 1, generator=generator)
        inits = task.init(8, generator)
        start, future = scales * inits, (0.5 + 0.5 * scales) * inits
        return CheckpointPairs(
            start[share], future[share], metric_of(start, generator)[share], metric_of(future, generator)[share]
        )

    return pairs


def settings(output: Path, task: str, metric: str) -> TrainConfig:
    config = replace(tiny_config(output, NUM_STEPS), task=task, metric=metric)
    return replace(config, progress=replace(config.progress, evaluate_every=0, save_every=0))


def denoise(output: Path, prediction_type: str = "sample", learning_rate: float = 1e-2, **diffusion: Any) -> None:
    config, task = settings(output, "digits", "loss"), get_task("digits")
    config = replace(
        config,
        model=replace(config.model, prediction_type=prediction_type),
        diffusion=replace(config.diffusion, **diffusion),
        optimizer=replace(config.optimizer, learning_rate=learning_rate),
    )
    normalizer = ParameterNormalizer.fit(task.init(8, torch.Generator().manual_seed(1)), task.layout)
    fit(config, task, pairs_of_scaled_networks(task), normalizer, RANGES["digits"])


def align_random(output: Path, task: str, metric: str, **options: Any) -> None:
    """The second stage from random weights on, a part of the starts being the model's own results."""
    options = {"num_steps": NUM_STEPS, "batch_size": 8, "learning_rate": 3e-3, "recursive_share": 0.25} | options
    config = replace(settings(output, task, metric), alignment=AlignmentConfig(**options))
    pipeline = build_pipeline(get_task(task), **RANGES[task])
    randomise(pipeline.transformer, scale=0.1)
    ends = 4 * get_task(task).init(6, torch.Generator().manual_seed(2)) if config.alignment.teacher_runs else None
    align(config, get_task(task), pipeline, pairs_of_scaled_networks(get_task(task)), run_ends=ends)


STAGES: dict[str, Callable[..., None]] = {
    "denoising": denoise,
    "denoising_v": lambda output, **more: denoise(
        output, prediction_type="v_prediction", weighting="snr", tensor_weighting="tensor", **more
    ),
    "denoising_flow": lambda output, **more: denoise(
        output, prediction_type="flow_prediction", weighting="snr", behavioural_weight=0.5, **more
    ),
    "alignment": lambda output, **more: align_random(output, "digits", "loss", num_examples=64, **more),
    "alignment_by_runs": lambda output, **more: align_random(
        output, "digits", "loss", num_examples=64, teacher_runs=4, teacher_examples=500, teacher_weight=0.5, **more
    ),
    "alignment_by_evolution": lambda output, **more: align_random(
        output, "cartpole", "return", num_examples=2, evolution_pairs=4, **more
    ),
}


def losses(stage: str, output: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> list[float]:
    """The loss of every step, from the log of a training on one thread."""
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(TrainingLog, "wants", lambda log, step: True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        STAGES[stage](output, **more)
    finally:
        torch.set_num_threads(threads)
    (log,) = output.rglob("log.jsonl")
    return [line["loss"] for line in kept_lines(log, NUM_STEPS)]


@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_of_every_step_is_the_one_recorded(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, file = losses(stage, tmp_path, monkeypatch), GOLDEN / f"{stage}.json"
    if os.environ.get("RECORD_GOLDEN"):
        file.write_text(json.dumps(found, indent=1) + "\n")
    recorded = json.loads(file.read_text())
    assert len(recorded) == NUM_STEPS
    assert found == pytest.approx(recorded, rel=TOLERANCE)


def test_a_learning_rate_two_hundredths_higher_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = json.loads((GOLDEN / "denoising.json").read_text())
    other = losses("denoising", tmp_path, monkeypatch, learning_rate=1.02e-2)
    assert max(abs(a / b - 1) for a, b in zip(other, recorded, strict=True)) > 10 * TOLERANCE
