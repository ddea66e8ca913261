"""The second stage of training: learn to hit the prompt, through the sampler and the metric itself.

Diffusion learns what networks look like that reach a metric; this stage asks each sampled network what it reached
and follows the gradient of the squared gap back through the last sampling steps, as reward fine-tuning does for
images (Clark et al. 2023, "Directly fine-tuning diffusion models on differentiable rewards"). Here the reward is a
distance to a prompt, and there is no end of fresh starts.

B = networks, P = parameters per network.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import SchedulerMixin
from torch import Tensor, nn

from g_pt.diffusion import diffusion_loss
from g_pt.pipeline import ParameterUpdatePipeline
from g_pt.schedulers import make_scheduler
from g_pt.seeds import keyed_generator
from g_pt.tasks.base import Task, TrainableTask
from g_pt.training.config import TrainConfig
from g_pt.training.generalization import GeneralizationGap
from g_pt.training.loop import draw_noise, train_stage
from g_pt.training.probe import PromptProbe
from g_pt.training.setup import (
    ALIGNMENT_STREAM,
    GAP_STREAM,
    PairSource,
    make_objective,
    permuted_pairs,
    process_share,
    scheduler_alphas,
)

# Networks and training examples from which the gap between training and validation metric is estimated.
GAP_NETWORKS, GAP_EXAMPLES, GAP_CHUNK = 512, 1024, 32


def align(
    config: TrainConfig,
    task: Task,
    pipeline: ParameterUpdatePipeline,
    pairs: PairSource,
    *,
    held_out: PairSource | None = None,
    accelerator: Accelerator | None = None,
    resume: bool = False,
) -> ParameterUpdatePipeline:
    """Fine-tune a trained pipeline to hit its prompts; its own logs and checkpoints are in `<output>/alignment`.

    Args:
        config: all settings.
        task: whose networks are updated; its training loss must be the prompted metric.
        pipeline: that `fit` returned; its weights are changed.
        pairs: gives the training pairs of any step, for starts and for the denoising loss.
        held_out: as for `fit`.
        accelerator: made from the configuration where it is not given; not that of `fit`, whose state would be saved in
            every checkpoint of this stage too.
        resume: continue from the newest checkpoint of this stage, if there is one.

    Returns:
        The pipeline with the averaged weights, in evaluation mode, saved to `config.pipeline_folder`.

    Raises:
        ValueError: see `check_alignment`.
    """
    options = config.alignment
    accelerator = accelerator or Accelerator(mixed_precision=config.optimizer.mixed_precision)
    trainable = check_alignment(config, task, accelerator)
    optimizer = replace(
        config.optimizer,
        num_steps=options.num_steps,
        learning_rate=options.learning_rate,
        ema_decay=options.ema_decay,
        warmup_steps=min(50, options.num_steps // 10),
    )
    settings = replace(config, optimizer=optimizer, output=config.output / "alignment", pipeline=config.pipeline_folder)
    pipeline.to(accelerator.device)
    pipeline.register_to_config(num_inference_steps=options.num_inference_steps)
    loss = AlignmentLoss(config, trainable, pipeline, pairs, accelerator)
    probe = PromptProbe(config, task, pipeline, held_out)
    resume = resume and (settings.output / "train_config.json").is_file()
    return train_stage(settings, pipeline, loss, probe, accelerator, stage="alignment", resume=resume)


def check_alignment(config: TrainConfig, task: Task, accelerator: Accelerator) -> TrainableTask:
    """Refuse settings that cannot be aligned, before hours of the first stage; returns the task.

    Raises:
        ValueError: the prompted metric is not the training loss, so that it has no gradient, or the batch is larger
            than that of the first stage, or does not divide among the processes.
    """
    if not isinstance(task, TrainableTask):
        raise ValueError(f"alignment needs a task with training losses, {task.name!r} has none; set its steps to 0")
    if config.metric != "loss":
        raise ValueError(f"alignment needs a gradient of the metric: prompt the loss, got {config.metric!r}")
    most, wanted = config.pairs.batch_size, config.alignment.batch_size
    if wanted > most:
        raise ValueError(f"alignment.batch_size must be at most pairs.batch_size = {most}, got {wanted}")
    process_share(wanted, accelerator)
    return task


class AlignmentLoss:
    """Squared distance of the achieved metric to the prompted one, plus the denoising loss times its weight.

    Both are transformed, and both are training metrics: see `g_pt.training.generalization`.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: TrainableTask,
        pipeline: ParameterUpdatePipeline,
        pairs: PairSource,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.task, self.pipeline = config, task, pipeline
        self.pairs = permuted_pairs(config, task, pairs)
        self.device = accelerator.device
        self.share = process_share(config.alignment.batch_size, accelerator)
        self.scheduler = make_scheduler("ddim", dict(pipeline.scheduler.config))
        self.alphas_cumprod = scheduler_alphas(config).to(self.device)
        self.objective = make_objective(config, task, self.device)
        best, init = (
            float(pipeline.metric.embedded(torch.tensor(m))) for m in pipeline.config.training["attainable_range"]
        )
        margin = config.alignment.margin * (init - best)
        self.prompt_range = (best - margin, init + margin)  # transformed
        self.gap = self.measure_gap()

    def __call__(self, model: nn.Module, step: int) -> Tensor:
        """The loss of a step: a scalar."""
        options, metric = self.config.alignment, self.pipeline.metric
        generator = keyed_generator(self.config.seed, step, ALIGNMENT_STREAM)
        starts = self.draw_starts(step, generator).to(self.device)  # (b, P)
        wanted = self.draw_prompts(generator).to(self.device)  # (b,), transformed
        noise = torch.randn(options.batch_size, starts.shape[1], generator=generator)[self.share].to(self.device)
        num_steps = int(torch.randint(2, options.max_sampling_steps + 1, (), generator=generator))
        examples = torch.randint(self.task.num_examples, (options.num_examples,), generator=generator).to(self.device)
        starting = self.validation_metric(starts)  # (b,), raw
        normalizer = self.pipeline.normalizer
        x_0 = sample_with_gradient(
            model,
            self.scheduler,
            normalizer.normalize(starts),
            starting,
            metric.unembedded(wanted),
            noise,
            num_steps=num_steps,
            gradient_steps=options.gradient_steps,
        )  # (b, P)
        with torch.autocast(self.device.type, enabled=False):
            achieved = self.training_metric(normalizer.unnormalize(x_0.float()), examples)  # (b,), transformed
            loss = (achieved - self.gap(wanted)).square().mean()
        return loss + options.diffusion_weight * self.denoising_loss(model, step) if options.diffusion_weight else loss

    def draw_starts(self, step: int, generator: torch.Generator) -> Tensor:
        """Fresh inits and harvested checkpoints of this process, (b, P), raw."""
        options = self.config.alignment
        num_checkpoints = round(options.checkpoint_share * options.batch_size)
        fresh = self.task.init(options.batch_size - num_checkpoints, generator)
        found = self.pairs(step, slice(0, num_checkpoints)).starting_params
        return torch.cat([fresh, found.to(fresh.device)])[self.share]

    def draw_prompts(self, generator: torch.Generator) -> Tensor:
        """Prompts of this process, uniform in the transformed metric: (b,)."""
        low, high = self.prompt_range
        return (low + (high - low) * torch.rand(self.config.alignment.batch_size, generator=generator))[self.share]

    def training_metric(self, params: Tensor, examples: Tensor) -> Tensor:
        """Transformed metric of raw parameters (b, P) on training examples: (b,), with its gradient."""
        tensors = {}
        for name, tensor in self.task.layout.unflatten(params).items():
            # copies, as running statistics are updated in place; PyTorch gives them no gradient
            part = tensor if name in self.task.trained_names else tensor.detach()
            tensors[name] = part.clone(memory_format=torch.contiguous_format)
        return self.pipeline.metric.embedded(self.task.training_losses(tensors, examples))

    @torch.no_grad()
    def measure_gap(self) -> GeneralizationGap:
        """Which training metric goes with which validation metric, from harvested networks."""
        generator = keyed_generator(self.config.seed, GAP_STREAM)
        num_examples = min(self.task.num_examples, GAP_EXAMPLES)
        examples = torch.randperm(self.task.num_examples, generator=generator)[:num_examples].to(self.device)
        validation, training = [], []
        for step in range(-(-GAP_NETWORKS // self.config.pairs.batch_size)):
            batch = self.pairs(step, slice(None)).to(self.device)
            validation.append(self.pipeline.metric.embedded(batch.future_metric))
            training += [self.training_metric(part, examples) for part in batch.future_params.split(GAP_CHUNK)]
        return GeneralizationGap.fit(torch.cat(validation), torch.cat(training))

    def validation_metric(self, params: Tensor) -> Tensor:
        """Raw metric of raw parameters (b, P) in full precision, as the pipeline measures it: (b,)."""
        with torch.autocast(self.device.type, enabled=False):
            return self.task.evaluate(params, "validation")[self.pipeline.metric.name]

    def denoising_loss(self, model: nn.Module, step: int) -> Tensor:
        """The loss of the first stage, on pairs and noise of its own."""
        step += self.config.optimizer.num_steps  # pairs and noise that the first stage has not seen
        batch = self.pairs(step, self.share).to(self.device)
        timesteps, noise = draw_noise(self.config, step, self.share, self.task.layout.num_params, self.device)
        return diffusion_loss(
            model, self.pipeline.normalizer, batch, timesteps, noise, self.alphas_cumprod, self.objective(step)
        )


def sample_with_gradient(
    model: nn.Module,
    scheduler: SchedulerMixin,
    x_start: Tensor,
    starting_metric: Tensor,
    prompted_metric: Tensor,
    noise: Tensor,
    *,
    num_steps: int,
    gradient_steps: int,
) -> Tensor:
    """Sample updates as the pipeline does, differentiable through the last steps.

    Args:
        model: predicts what the scheduler expects.
        scheduler: a diffusers sampler that adds no noise of its own.
        x_start: (B, P), normalised.
        starting_metric: (B,), raw.
        prompted_metric: (B,), raw.
        noise: (B, P), standard normal: x at the first time.
        num_steps: sampling steps.
        gradient_steps: last steps through which the gradient flows.

    Returns:
        x_0, (B, P), normalised.
    """
    sampler: Any = scheduler
    sampler.set_timesteps(num_steps, device=x_start.device)
    x_t = noise * sampler.init_noise_sigma
    for i, t in enumerate(sampler.timesteps):
        if i == num_steps - gradient_steps:
            # below PyTorch 2.11 autocast would use its copies of the weights from the steps without gradient again
            torch.clear_autocast_cache()
        with torch.set_grad_enabled(i >= num_steps - gradient_steps):
            predicted = model(x_t, t.expand(len(x_t)), x_start, starting_metric, prompted_metric)  # (B, P)
            x_t = sampler.step(predicted.float(), t, x_t).prev_sample  # (B, P)
    return x_t
