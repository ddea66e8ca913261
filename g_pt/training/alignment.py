"""The second stage of training: learn to hit the prompt, through the sampler and the metric itself.

Diffusion learns what networks look like that reach a metric; this stage asks each sampled network what it reached
and follows the gradient of the squared gap back through the last sampling steps, as reward fine-tuning does for
images (Clark et al. 2023, "Directly fine-tuning diffusion models on differentiable rewards"). Here the reward is a
distance to a prompt, and there is no end of fresh starts.

B = networks, P = parameters per network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.prompting import measure_updates, update_networks
from g_pt.model.sampling import Condition, finish_updates, sample
from g_pt.model.schedulers import default_scheduler, make_scheduler
from g_pt.networks.training_facts import AlignmentFacts
from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks.base import Task
from g_pt.training.config import AlignmentConfig, TrainConfig
from g_pt.training.denoising import DenoisingLoss
from g_pt.training.generalization import GeneralizationGap
from g_pt.training.loop import (
    Loss,
    SizesTraining,
    join_processes,
    make_denoising_loss,
    make_probe,
    make_stage,
    train_stage,
)
from g_pt.training.metric_gap import has_exact_gradient, make_reached
from g_pt.training.saving import save_whole
from g_pt.training.setup import ALIGNMENT_STREAM, GAP_STREAM, OWN_RANGE_STREAM, PairSource, process_share
from g_pt.training.teacher import Teacher, teachable

# Networks and training examples from which the gap between training and validation metric is estimated.
GAP_NETWORKS, GAP_EXAMPLES = 512, 1024
# On which it is seen how good updates get.
RANGE_NETWORKS, RANGE_PROMPTS = 64, 12
# How often the map from prompts to taught losses is measured anew, on the model's own networks.
REFIT_STEPS = 50
# How a start that is the model's own result is made.
NUMBERS_OF_UPDATES, UPDATE_STEPS = (1, 2, 4), 2


def align(
    config: TrainConfig,
    task: Task,
    pipeline: ParameterUpdatePipeline,
    pairs: PairSource,
    *,
    held_out: PairSource | None = None,
    sizes: SizesTraining | None = None,
    run_ends: Tensor | None = None,
    accelerator: Accelerator | None = None,
    resume: bool = False,
) -> ParameterUpdatePipeline:
    """Fine-tune a trained pipeline to hit its prompts; its own logs and checkpoints are in `<output>/alignment`.

    Args:
        config: all settings.
        task: whose networks are updated.
        pipeline: that `fit` returned; its weights are changed.
        pairs: gives the training pairs of any step, for starts and for the denoising loss.
        held_out: as for `fit`.
        sizes: as for `fit`.
        run_ends: last checkpoints of harvested runs (R, P), raw, where some are to teach (`alignment.teacher_runs`).
        accelerator: made from the configuration where it is not given; not that of `fit`, whose state would be saved in
            every checkpoint of this stage too.
        resume: continue from the newest checkpoint of this stage, if there is one.

    Returns:
        The pipeline with the averaged weights, in evaluation mode, saved to `config.pipeline_folder`.

    Raises:
        ValueError: see `check_alignment`.
    """
    options = config.alignment
    optimizer = replace(
        config.optimizer,
        num_steps=options.num_steps,
        learning_rate=options.learning_rate,
        ema_decay=options.ema_decay,
        warmup_steps=min(50, options.num_steps // 10),
    )
    settings = replace(config, optimizer=optimizer, output=config.output / "alignment", pipeline=config.pipeline_folder)
    accelerator = accelerator or join_processes(settings)
    check_alignment(config, task, accelerator)
    pipeline.to(accelerator.device)
    taught = options.teacher_runs > 0
    gradient: Literal["exact", "evolution"] = (
        "exact" if taught or has_exact_gradient(task, config.metric, options.gradient) else "evolution"
    )
    stage_facts = AlignmentFacts(options.num_steps, gradient, options.recursive_share, options.teacher_runs)
    facts = replace(pipeline.facts, alignment=stage_facts)
    pipeline.register_to_config(num_inference_steps=options.num_inference_steps, training=facts.to_json())
    # pairs and noise that the first stage has not seen
    probe = make_probe(config, task, pipeline, held_out)
    if sizes is None:
        denoising = make_denoising_loss(config, task, pipeline, pairs, accelerator, config.optimizer.num_steps)
        teacher = make_teacher(config, task, pipeline, run_ends) if taught else None
        own = AlignmentLoss(options, task, pipeline, denoising, accelerator, seed=config.seed, teacher=teacher)
        loss: Loss = own
    else:
        loss, probe = sizes.alignment(pipeline, accelerator), sizes.probe(pipeline, probe)
    stage = make_stage(settings, pipeline, "alignment")
    resume = resume and (settings.output / "train_config.json").is_file()
    aligned = train_stage(stage, pipeline, loss, probe, accelerator, resume=resume)
    if not taught or sizes is not None:
        return aligned
    generator = keyed_generator(config.seed, OWN_RANGE_STREAM)
    facts = replace(facts, alignment=measure_range(aligned, stage_facts, own.prompts_to_measure(), generator))
    aligned.register_to_config(training=facts.to_json())
    if accelerator.is_main_process:
        save_whole(aligned, config.pipeline_folder)
    accelerator.wait_for_everyone()
    return aligned


def make_teacher(config: TrainConfig, task: Task, pipeline: ParameterUpdatePipeline, runs: Tensor | None) -> Teacher:
    """The runs (R, P) as teacher of networks of the pipeline; raises as `check_alignment` does."""
    if runs is None:
        raise ValueError("alignment.teacher_runs needs the runs' last checkpoints: give align(..., run_ends=)")
    return Teacher(
        teachable(task, config.metric), pipeline.metric, pipeline.normalizer, config.alignment, runs, config.seed
    )


def measure_range(
    pipeline: ParameterUpdatePipeline, facts: AlignmentFacts, prompts: Tensor, generator: torch.Generator
) -> AlignmentFacts:
    """Facts with what updates of fresh inits attain on the validation split, the best of prompts (K,)."""
    starts, metric = pipeline.task.init(RANGE_NETWORKS, generator), pipeline.metric
    updated = update_networks(pipeline, starts, prompts, generator=generator)
    achieved = measure_updates(pipeline.task, updated, "validation")[metric.name].mean(dim=0)  # (K,)
    before = pipeline.task.evaluate(starts, "validation")[metric.name].mean().item()
    best = int(metric.argbest(achieved))
    return replace(facts, attainable_range=(achieved[best].item(), before), best_prompt=prompts[best].item())


def check_alignment(config: TrainConfig, task: Task, accelerator: Accelerator) -> None:
    """Refuse settings that cannot be aligned, before hours of the first stage.

    Raises:
        ValueError: the prompted metric cannot be measured in training (see `has_exact_gradient`), or runs cannot teach
            (see `teachable`), or the batch is larger than that of the first stage, or does not divide among the
            processes.
    """
    if config.alignment.teacher_runs:
        teachable(task, config.metric)
    else:
        has_exact_gradient(task, config.metric, config.alignment.gradient)
    most, wanted = config.pairs.batch_size, config.alignment.batch_size
    if wanted > most:
        raise ValueError(f"alignment.batch_size must be at most pairs.batch_size = {most}, got {wanted}")
    process_share(wanted, accelerator)


class AlignmentLoss:
    """Squared distance of the achieved metric to the prompted one, plus the denoising loss times its weight.

    Both are transformed, and both are training metrics: see `g_pt.training.generalization`.
    """

    def __init__(
        self,
        options: AlignmentConfig,
        task: Task,
        pipeline: ParameterUpdatePipeline,
        denoising: DenoisingLoss,
        accelerator: Accelerator,
        *,
        seed: int,
        gap: GeneralizationGap | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        """`denoising` gives the pairs too, whose earlier networks are starts; without a teacher labels teach.

        `gap` is measured where it is not given.
        """
        self.options, self.task, self.pipeline, self.denoising, self.seed = options, task, pipeline, denoising, seed
        self.device = accelerator.device
        self.share = process_share(options.batch_size, accelerator)
        schedule = dict(pipeline.scheduler.config)
        self.scheduler = make_scheduler(default_scheduler(schedule["prediction_type"]), schedule)
        self.reached = teacher or make_reached(task, pipeline.metric, pipeline.normalizer, options)
        facts = pipeline.facts
        low, high = self.transformed(facts.attainable_of_runs())
        margin = options.margin * (high - low)
        # where most prompts are drawn from, and where the others are, transformed
        self.ranges = ((low - margin, high + margin), self.transformed(facts.seen()))
        # beyond what the runs attained, where there is a teacher
        self.beyond = (low - options.teacher_reach * (high - low), low) if teacher else None
        self.is_taught = teacher is not None
        fit = GeneralizationGap.along_training if teacher else GeneralizationGap.fit
        known = GeneralizationGap.none() if task.endless_data and not teacher else gap
        self.gap = known or self.measure_gap(fit)

    def __call__(self, model: nn.Module, step: int) -> Tensor:
        """The loss of a step: a scalar."""
        options, metric, normalizer = self.options, self.pipeline.metric, self.pipeline.normalizer
        if self.is_taught and step and step % REFIT_STEPS == 0:
            self.gap = self.own_gap(model, step)
        generator = keyed_generator(self.seed, step, ALIGNMENT_STREAM)
        starts, starting = self.draw_starts(step, generator)  # (b, P), (b,), raw
        if options.recursive_share:
            starts, starting = self.updated_starts(model, starts, starting, generator)
        wanted = self.draw_prompts(generator).to(self.device)  # (b,), transformed
        noise = torch.randn(options.batch_size, starts.shape[1], generator=generator)[self.share].to(self.device)
        num_steps = int(torch.randint(2, options.max_sampling_steps + 1, (), generator=generator))
        condition = Condition(normalizer.normalize(starts), starting, metric.unembedded(wanted))
        x_0 = sample(
            model, self.scheduler, condition, noise, num_steps, gradient_steps=options.gradient_steps
        )  # (b, P)
        with torch.autocast(self.device.type, enabled=False):
            loss = self.reached.squared_gap(x_0.float(), self.gap(wanted), generator, self.share)
        return loss + options.diffusion_weight * self.denoising(model, step) if options.diffusion_weight else loss

    def transformed(self, values: tuple[float, float]) -> tuple[float, float]:
        """Lowest and highest of two raw metrics, transformed."""
        low, high = sorted(self.pipeline.metric.embedded(torch.tensor(values)).tolist())
        return low, high

    def draw_starts(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Fresh inits and harvested checkpoints of this process, (b, P), and their metrics, (b,); raw."""
        options = self.options
        num_checkpoints = round(options.checkpoint_share * options.batch_size)
        params = self.task.init(options.batch_size - num_checkpoints, generator)
        known = torch.full((len(params),), torch.nan)
        if num_checkpoints:
            found = self.denoising.pairs(step, slice(0, num_checkpoints))
            params = torch.cat([params, found.starting_params.to(params.device)])
            known = torch.cat([known, found.starting_metric.cpu()])
        params, known = params[self.share].to(self.device), known[self.share]
        metric = known.to(self.device)
        is_fresh = metric.isnan()
        if is_fresh.any():
            metric[is_fresh] = self.validation_metric(params[is_fresh])
        return params, metric

    def updated_starts(
        self, model: nn.Module, starts: Tensor, starting: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The same networks, (b, P) and (b,), raw, a share of them after 1 to 4 updates by the model as it is now.

        Rows are chosen at even distances in the global batch, so that any split of it agrees. A process updates one at
        least: of a sharded model all must take part in every forward.
        """
        options = self.options
        places = torch.arange(options.batch_size + 1) * options.recursive_share
        rows = (places[1:].floor() > places[:-1].floor())[self.share].nonzero()[:, 0]
        rows = rows.to(self.device) if len(rows) else torch.zeros(1, dtype=torch.int64, device=self.device)
        drawn = torch.randint(len(NUMBERS_OF_UPDATES), (), generator=generator)
        updated, metric = starts[rows], starting[rows]
        for _ in range(NUMBERS_OF_UPDATES[drawn]):
            wanted = self.draw_prompts(generator).to(self.device)[rows]  # transformed
            noise = torch.randn(options.batch_size, starts.shape[1], generator=generator)[self.share]
            updated, metric = self.update(model, updated, metric, wanted, noise.to(self.device)[rows])
        is_usable = updated.isfinite().all(dim=1) & metric.isfinite()
        rows = rows[is_usable]
        return (
            starts.index_copy(0, rows, updated[is_usable]),
            starting.index_copy(0, rows, metric[is_usable]),
        )

    def update(
        self, model: nn.Module, params: Tensor, metric: Tensor, wanted: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Networks (b, P), raw, after an update to transformed metrics (b,), and their metrics (b,), raw."""
        normalizer = self.pipeline.normalizer
        condition = Condition(normalizer.normalize(params), metric, self.pipeline.metric.unembedded(wanted))
        x_0 = sample(model, self.scheduler, condition, noise, UPDATE_STEPS)
        updated = finish_updates(self.task, normalizer.unnormalize(x_0.float()), params)
        return updated, self.validation_metric(updated)

    def draw_prompts(self, generator: torch.Generator) -> Tensor:
        """Prompts of this process, uniform in the transformed metric: (b,)."""
        return self.draw_all_prompts(generator)[self.share]

    def draw_all_prompts(self, generator: torch.Generator) -> Tensor:
        """Prompts of all processes: (batch,)."""
        size = (self.options.batch_size,)
        near, far = (low + (high - low) * torch.rand(size, generator=generator) for low, high in self.ranges)
        anywhere = torch.rand(size, generator=generator) < self.options.full_range_share
        drawn = torch.where(anywhere, far, near)
        if self.beyond:
            low, high = self.beyond
            is_beyond = torch.rand(size, generator=generator) < self.options.teacher_share
            drawn = torch.where(is_beyond, low + (high - low) * torch.rand(size, generator=generator), drawn)
        return drawn

    def prompts_to_measure(self) -> Tensor:
        """Raw prompts around the runs' best and beyond it, as far as checkpoints got: (K,)."""
        low, high = self.transformed(self.pipeline.facts.attainable_of_runs())
        first, last = (low + share * (high - low) for share in (-self.options.teacher_reach, 0.1))
        prompts = self.pipeline.metric.unembedded(torch.linspace(first, last, RANGE_PROMPTS))
        return prompts.clamp(*self.pipeline.facts.seen())

    @torch.no_grad()
    def measure_gap(self, fit: Callable[[Tensor, Tensor], GeneralizationGap]) -> GeneralizationGap:
        """Which training metric goes with which validation metric, from harvested networks."""
        validation, training = [], []
        for step in range(-(-GAP_NETWORKS // self.denoising.size)):
            batch = self.denoising.pairs(step, slice(None)).to(self.device)
            generator = keyed_generator(self.seed, GAP_STREAM)  # the same examples for all
            validation.append(self.pipeline.metric.embedded(batch.future_metric))
            training.append(self.reached.measure(batch.future_params, GAP_EXAMPLES, generator))
        return fit(torch.cat(validation), torch.cat(training))

    @torch.no_grad()
    def own_gap(self, model: nn.Module, step: int) -> GeneralizationGap:
        """The same from networks that the model samples now, which are taught and so unlike harvested ones.

        A few knots are all that comes of the validation split, and of other networks than those that are trained on.
        """
        options = self.options
        validation, training = [], []
        for batch in range(-(-GAP_NETWORKS // options.batch_size)):
            generator = keyed_generator(self.seed, step, GAP_STREAM, batch)
            starts = self.task.init(options.batch_size, generator).to(self.device)
            wanted = self.draw_all_prompts(generator).to(self.device)
            noise = torch.randn(starts.shape, generator=generator).to(self.device)
            updated, metric = self.update(model, starts, self.validation_metric(starts), wanted, noise)
            validation.append(self.pipeline.metric.embedded(metric))
            training.append(self.reached.measure(updated, GAP_EXAMPLES, keyed_generator(self.seed, GAP_STREAM)))
        return GeneralizationGap.along_training(torch.cat(validation), torch.cat(training))

    def state_dict(self) -> dict[str, Tensor]:
        """What other steps than the present one have decided."""
        return {"validation": self.gap.validation, "training": self.gap.training}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore it."""
        self.gap = GeneralizationGap(**state)

    def validation_metric(self, params: Tensor) -> Tensor:
        """Raw metric of raw parameters (b, P) in full precision, as the pipeline measures it: (b,)."""
        with torch.autocast(self.device.type, enabled=False):
            return self.task.evaluate(params, "validation")[self.pipeline.metric.name]
