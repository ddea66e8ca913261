"""Parts of a training run: model, optimizer, pipeline, and the share of the pairs that a process draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import torch
from accelerate import Accelerator
from torch import nn

from g_pt.model.diffusion import Objective, tensor_weights
from g_pt.model.normalization import ParameterNormalizer
from g_pt.model.pairs import CheckpointPairs
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.schedulers import PredictionType, default_scheduler, make_scheduler, noise_schedule
from g_pt.model.transformer import ParameterTransformer
from g_pt.networks.training_facts import TrainingFacts
from g_pt.runtime.seeds import keyed_generator, seeded_global_generator
from g_pt.tasks.base import Task
from g_pt.tasks.supervised import SupervisedTask
from g_pt.training.config import DiffusionConfig, ModelConfig, OptimizerConfig, PairConfig

# keep what is drawn for different ends from (seed, step) apart
(
    NOISE_STREAM, BEHAVIOUR_STREAM, PERMUTATION_STREAM, HELD_OUT_STREAM, ALIGNMENT_STREAM, GAP_STREAM, GLOBAL_STREAM,
    TEACHER_STREAM, OWN_RANGE_STREAM, SIZE_STREAM,
) = range(1, 11)  # fmt: skip

# (step, this process's share of the global batch) -> pairs on the CPU
PairSource = Callable[[int, slice], CheckpointPairs]


def make_model(
    task: Task,
    metric: str,
    options: ModelConfig,
    *,
    num_train_timesteps: int,
    seed: int,
    kinds: dict[str, int] | None = None,
) -> ParameterTransformer:
    """The untrained model, prompted by a metric of the task; for networks of any size that have the given kinds.

    The same seed gives the same weights, and no global generator moves.
    """
    options = options if kinds is None else replace(options, tokenization="kinds")
    permutations = task.permutations.to_json()  # not below: where they are derived only now, a task may draw for it
    with seeded_global_generator(seed):
        return ParameterTransformer(
            layout=task.layout.to_json(),
            permutations=permutations,
            metric=task.metric(metric).to_json(),
            num_train_timesteps=num_train_timesteps,
            kinds=kinds,
            **asdict(options),
        )


def make_optimizer(model: nn.Module, options: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, options.beta2), fused=True)


def make_objective(
    task: Task, options: DiffusionConfig, prediction_type: PredictionType, *, seed: int, device: torch.device
) -> Callable[[int], Objective]:
    """Make the objective of each step; only the examples of the behavioural distance change.

    Raises:
        ValueError: the behavioural distance is wanted of a task whose networks have no inputs and outputs.
    """
    weights = tensor_weights(task.layout).to(device) if options.tensor_weighting == "tensor" else None
    fixed = Objective(prediction_type, options.weighting, weights)
    if not options.behavioural_weight:
        return lambda step: fixed
    if not isinstance(task, SupervisedTask):
        raise ValueError(f"behavioural_weight needs a supervised task, {task.name!r} is none; set it to 0")

    def objective(step: int) -> Objective:
        generator = keyed_generator(seed, step, BEHAVIOUR_STREAM)
        examples = torch.randint(task.num_examples, (options.behavioural_examples,), generator=generator)
        return replace(
            fixed,
            behaviour=lambda params, others: task.output_distance(params, others, examples),
            behavioural_weight=options.behavioural_weight,
        )

    return objective


def permuted_pairs(pairs: PairSource, task: Task, options: PairConfig, *, seed: int) -> PairSource:
    """The same pairs, each in a random order of units, where the settings ask for it.

    Orders are drawn for the global batch, so that any split of it agrees.
    """
    if options.augmentation == "none":
        return pairs

    def permuted(step: int, share: slice) -> CheckpointPairs:
        generator = keyed_generator(seed, step, PERMUTATION_STREAM)
        orders = task.permutations.draw(task.layout, options.batch_size, generator)
        own = {group: order[share] for group, order in orders.items()}
        return pairs(step, share).permuted(task.layout, task.permutations, own)

    return permuted


def make_pipeline(
    task: Task,
    model: ParameterTransformer,
    normalizer: ParameterNormalizer,
    options: DiffusionConfig,
    facts: TrainingFacts,
    name: str | None = None,
) -> ParameterUpdatePipeline:
    """The pipeline that is saved, around the model in training; it keeps the task's name, not the file of its class.

    `name` is that of a family where the task is one of its members.
    """
    prediction_type = model.config.prediction_type
    schedule = noise_schedule(options.num_train_timesteps, options.beta_start, options.beta_end, prediction_type)
    return ParameterUpdatePipeline(
        transformer=model,
        normalizer=normalizer,
        scheduler=make_scheduler(default_scheduler(prediction_type), schedule),
        task=name or task.name,
        num_inference_steps=options.num_inference_steps,
        training=facts,
    )


def process_share(batch_size: int, accelerator: Accelerator) -> slice:
    """Rows of the global batch that belong to this process."""
    num = accelerator.num_processes
    if batch_size % num:
        raise ValueError(f"batch_size must be a multiple of the number of processes, got {batch_size} and {num}")
    size = batch_size // num
    return slice(accelerator.process_index * size, (accelerator.process_index + 1) * size)
