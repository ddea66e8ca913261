"""Meta-training: an optimizer learns to train networks. Every step can be drawn again, so a resumed run is the same.

M = weights of the optimizer.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from g_pt.evolution.unrolls import UnrollState, leaves, mapped
from g_pt.learned_optimizers.inner_training import InnerTraining
from g_pt.learned_optimizers.trained import save_trained
from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks import get_task
from g_pt.tasks.base import TrainableTask
from g_pt.training.accelerators import make_accelerator
from g_pt.training.checkpoints import TrainingCheckpoints, check_output, check_still_there, jsonable, training_lock
from g_pt.training.log import TrainingLog
from g_pt.training.loop import due
from g_pt.training.meta_config import MetaConfig
from g_pt.update_rules.gradient import cosine_decay

WEIGHTS_FILE = "optimizer.safetensors"
FIRST, STEPS, HELD_OUT = range(3)  # streams of random numbers
NORM_MEMORY = 0.95


class MetaTrainer:
    """The optimizer's weights on their way, with all that the next step needs."""

    def __init__(self, config: MetaConfig, task: TrainableTask) -> None:
        self.config, self.learned = config, config.optimizer
        self.unroll = InnerTraining(self.learned, task, horizon=config.horizon, batch_size=config.batch_size)
        config.estimator.steps(self.unroll)  # refused at once
        self.weights = self.learned.init(keyed_generator(config.seed, FIRST)).requires_grad_()
        self.adam = torch.optim.Adam([self.weights], config.learning_rate, betas=(0.9, 0.99))
        self.state: UnrollState | None = None
        self.mean_norm = 0.0
        self.best, self.best_step, self.misses = math.inf, 0, 0
        self.best_weights = self.weights.detach().clone()
        metrics = task.metrics
        self.metric = metrics["loss"] if "loss" in metrics else next(iter(metrics.values()))

    def step(self, number: int) -> dict[str, float]:
        """Estimate a gradient and follow it; returns what the log tells."""
        config = self.config
        generator = keyed_generator(config.seed, STEPS, number)
        found = config.estimator.estimate(self.unroll, self.weights.detach(), self.state, generator)
        self.state, norm = found.state, found.gradient.norm().item()
        kept = norm if self.mean_norm == 0 else min(norm, 3 * self.mean_norm)
        self.mean_norm = kept if self.mean_norm == 0 else NORM_MEMORY * self.mean_norm + (1 - NORM_MEMORY) * kept
        limit = config.max_norm_ratio * self.mean_norm
        self.weights.grad = found.gradient * (limit / norm if norm > limit else 1.0)
        decay = cosine_decay(number / config.num_steps, config.final_learning_rate)
        self.adam.param_groups[0]["lr"] = rate = config.learning_rate * decay
        self.adam.step()
        return {"loss": found.loss, "grad_norm": norm, "learning_rate": rate, "clamped": found.clamped}

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure held-out networks on the validation split, and keep the weights where they are the best so far."""
        generator = keyed_generator(self.config.seed, HELD_OUT)
        values = self.unroll.evaluate(self.weights.detach(), self.config.progress.num_networks, generator)
        sign = 1.0 if self.metric.minimize else -1.0
        value = (sign * values[self.metric.name]).mean().item()
        if value < self.best:  # NaN is not
            self.best, self.best_step, self.misses = value, step, 0
            self.best_weights = self.weights.detach().clone()
        else:
            self.misses += 1
        return {"held_out": sign * value}

    @property
    def is_over(self) -> bool:
        """Whether there is no patience left."""
        return 0 < self.config.progress.patience <= self.misses

    def state_dict(self) -> dict[str, Any]:
        """All of it; the trainings of networks as a list of tensors."""
        plain = {name: getattr(self, name) for name in ("mean_norm", "best", "best_step", "misses", "best_weights")}
        return {
            **plain,
            "weights": self.weights.detach(),
            "adam": self.adam.state_dict(),
            "networks": leaves(self.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        for name in ("mean_norm", "best", "best_step", "misses", "best_weights"):
            setattr(self, name, state[name])
        with torch.no_grad():
            self.weights.copy_(state["weights"])
        self.adam.load_state_dict(state["adam"])
        template = self.config.estimator.begin(self.unroll, len(self.weights), torch.Generator())
        tensors = iter(state["networks"])
        self.state = mapped(lambda _: next(tensors), template)


def meta_train(config: MetaConfig, *, resume: bool = False) -> Path:
    """Train an optimizer; returns the file of its weights, those that were best on held-out networks.

    Raises:
        ValueError: the settings do not fit, or several processes were launched.
        OSError: the output folder holds another run, or none to resume.
    """
    task = get_task(config.task)
    accelerator = make_accelerator(config.output, mixed_precision="no")
    if accelerator.num_processes > 1:
        raise ValueError(f"meta-training takes one process, {accelerator.num_processes} were launched")
    trainer = MetaTrainer(config, task)  # type: ignore[arg-type]  # a task without gradients is refused there
    check_output(config.output, resume=resume)
    with training_lock(config.output, accelerator):
        run_steps(trainer, accelerator, resume)
        check_still_there(config.output)
    path = config.output / WEIGHTS_FILE
    facts = {**settings(config), "best_step": trainer.best_step, "held_out": trainer.best}
    del facts["output"]  # a place on this machine
    save_trained(path, config.optimizer, trainer.best_weights, facts)
    return path


def settings(config: MetaConfig) -> dict[str, Any]:
    """Settings as JSON."""
    found: dict[str, Any] = jsonable(dataclasses.asdict(config))
    return found


def run_steps(trainer: MetaTrainer, accelerator: Accelerator, resume: bool) -> None:
    """The steps, with log and checkpoints."""
    config = trainer.config
    progress = config.progress
    checkpoints = TrainingCheckpoints(
        config.output, settings(config), accelerator, {"trainer": trainer}, keep=progress.keep_checkpoints
    )
    first = checkpoints.start(resume=resume)
    log = TrainingLog(config.output, first)
    bar = tqdm(total=config.num_steps, initial=first, desc="meta-training", unit="step", disable=None)
    for number in range(first, first if trainer.is_over else config.num_steps):
        log.step(number + 1, **trainer.step(number))
        bar.update()
        if due(number + 1, progress.evaluate_every, config.num_steps):
            log.evaluation(number + 1, trainer.evaluate(number + 1))
            bar.set_postfix_str(f"held out {log.lines[-1]['held_out']:.4f}")
        if due(number + 1, progress.save_every, config.num_steps) or trainer.is_over:
            checkpoints.save(number + 1)
        if trainer.is_over:
            break
    bar.close()
    log.draw()
