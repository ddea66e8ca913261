"""Training with Accelerate: any step can be drawn again, so that a resumed run is the same run.

B = pairs of this process, P = parameters per network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from g_pt.model.normalization import ParameterNormalizer
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.transformer import ParameterTransformer
from g_pt.networks.training_facts import TrainingFacts
from g_pt.runtime.processes import Team
from g_pt.runtime.seeds import keyed_generator, seeded_global_generator
from g_pt.tasks import is_family
from g_pt.tasks.base import Task
from g_pt.tasks.family import TaskFamily
from g_pt.training.accelerators import is_sharded, make_accelerator, prepared, use_cpu_threads
from g_pt.training.checkpoints import (
    Saved,
    TrainingCheckpoints,
    check_output,
    check_replaceable,
    check_still_there,
    jsonable,
    training_lock,
)
from g_pt.training.config import OptimizerConfig, StageConfig, StageName, TrainConfig
from g_pt.training.denoising import DenoisingLoss
from g_pt.training.early_stopping import WeightChoice
from g_pt.training.ema import AveragedWeights
from g_pt.training.held_out import measure_held_out
from g_pt.training.log import TrainingLog
from g_pt.training.probe import PromptProbe
from g_pt.training.saving import finish
from g_pt.training.setup import (
    GLOBAL_STREAM,
    PairSource,
    make_model,
    make_objective,
    make_optimizer,
    make_pipeline,
    permuted_pairs,
    process_share,
)
from g_pt.training.steps import compiled, update_norm, whole
from g_pt.training.trackers import Trackers
from g_pt.update_rules.gradient import cosine_decay

# (model as Accelerate prepared it, step) -> scalar loss of this process
Loss = Callable[[nn.Module, int], Tensor]


class SizesTraining(Protocol):
    """What a training of a family has of its own: see `g_pt.training.families`."""

    family: TaskFamily

    def load_weights(self, model: ParameterTransformer) -> None:
        """Begin with weights that are there."""
        ...

    def denoising(self, pipeline: ParameterUpdatePipeline, accelerator: Accelerator, first_step: int = 0) -> Loss:
        """The loss of the first stage."""
        ...

    def alignment(self, pipeline: ParameterUpdatePipeline, accelerator: Accelerator) -> Loss:
        """The loss of the second stage."""
        ...

    def probe(self, pipeline: ParameterUpdatePipeline, probe: PromptProbe) -> PromptProbe:
        """The evaluation of several sizes around that of the default one."""
        ...


def fit(
    config: TrainConfig,
    task: Task,
    pairs: PairSource,
    normalizer: ParameterNormalizer,
    training_facts: TrainingFacts,
    *,
    held_out: PairSource | None = None,
    sizes: SizesTraining | None = None,
    accelerator: Accelerator | None = None,
    resume: bool = False,
) -> ParameterUpdatePipeline:
    """Train a G.pt by denoising and save its pipeline to `config.pipeline_folder`.

    Args:
        config: all settings.
        task: whose networks are learned.
        pairs: gives the training pairs of any step.
        normalizer: fitted to the training runs.
        training_facts: saved with the pipeline.
        held_out: gives pairs of runs that are not learned from, for a loss that shows memorisation.
        sizes: of a family, of which the task, pairs and held-out pairs are those of the default size.
        accelerator: made from the configuration where it is not given.
        resume: continue from the newest checkpoint in the output folder.

    Returns:
        The pipeline with the averaged weights, in evaluation mode.
    """
    accelerator = accelerator or join_processes(config)
    process_share(config.pairs.batch_size, accelerator)  # refused before anything is made
    num_times = config.diffusion.num_train_timesteps
    kinds, name = (sizes.family.kinds(), sizes.family.name) if sizes else (None, None)
    model = make_model(task, config.metric, config.model, num_train_timesteps=num_times, seed=config.seed, kinds=kinds)
    pipeline = make_pipeline(task, model, normalizer.to(accelerator.device), config.diffusion, training_facts, name)
    probe = make_probe(config, task, pipeline, held_out)
    if sizes is None:
        loss: Loss = make_denoising_loss(config, task, pipeline, pairs, accelerator)
    else:
        sizes.load_weights(model)
        loss, probe = sizes.denoising(pipeline, accelerator), sizes.probe(pipeline, probe)
    return train_stage(make_stage(config, pipeline, "diffusion"), pipeline, loss, probe, accelerator, resume=resume)


def join_processes(config: TrainConfig) -> Accelerator:
    """The accelerator of the settings; see `make_accelerator`."""
    precision, trackers = config.optimizer.mixed_precision, config.progress.trackers
    return make_accelerator(config.output, mixed_precision=precision, trackers=trackers)


def make_probe(
    config: TrainConfig, task: Task, pipeline: ParameterUpdatePipeline, held_out: PairSource | None
) -> PromptProbe:
    """What measures a stage: fresh inits at a few prompts, and pairs of runs that are not learned from."""
    size, seed = config.pairs.batch_size, config.seed
    measure = partial(measure_held_out, pipeline, held_out, batch_size=size, seed=seed) if held_out else None
    return PromptProbe(task, pipeline, config.progress, seed, measure)


def make_denoising_loss(
    config: TrainConfig,
    task: Task,
    pipeline: ParameterUpdatePipeline,
    pairs: PairSource,
    accelerator: Accelerator,
    first_step: int = 0,
) -> DenoisingLoss:
    """The loss of the first stage from a step on."""
    prediction_type, seed = config.model.prediction_type, config.seed
    return DenoisingLoss(
        pipeline,
        permuted_pairs(pairs, task, config.pairs, seed=seed),
        make_objective(task, config.diffusion, prediction_type, seed=seed, device=accelerator.device),
        accelerator,
        batch_size=config.pairs.batch_size,
        seed=seed,
        first_step=first_step,
    )


def make_stage(config: TrainConfig, pipeline: ParameterUpdatePipeline, name: StageName) -> StageConfig:
    """What `train_stage` needs of the settings."""
    settings = stage_settings(config, name) | {"data": jsonable(pipeline.facts.to_json())}
    return StageConfig(
        name, config.seed, config.optimizer, config.progress, config.output, config.pipeline_folder, settings
    )


def stage_settings(config: TrainConfig, name: StageName) -> dict[str, Any]:
    """What a resumed run must have as it was, as JSON; the facts of the data aside."""
    settings = jsonable(asdict(config))
    if name == "diffusion":
        del settings["alignment"]  # it may change once the first stage is done
    if not is_family(config.task):
        del settings["family"]  # so that runs of earlier versions can be resumed
    found: dict[str, Any] = settings
    return found


def train_stage(
    stage: StageConfig,
    pipeline: ParameterUpdatePipeline,
    loss_of: Loss,
    probe: PromptProbe,
    accelerator: Accelerator,
    *,
    resume: bool,
) -> ParameterUpdatePipeline:
    """Minimise a loss from the pipeline's weights on; save and return the pipeline.

    Raises:
        FolderBusyError: another training is writing to the output folder.
        OSError: the output folder was removed meanwhile, or its disk is full.
    """
    check_output(stage.output, resume=resume)  # before the lock makes the folder
    with training_lock(stage.output, accelerator):
        trained = minimise(stage, pipeline, loss_of, probe, accelerator, resume)
        check_still_there(stage.output)
        return trained


def minimise(
    stage: StageConfig,
    pipeline: ParameterUpdatePipeline,
    loss_of: Loss,
    probe: PromptProbe,
    accelerator: Accelerator,
    resume: bool,
) -> ParameterUpdatePipeline:
    """The steps of `train_stage`, by the only writer of the output folder."""
    options, progress, model = stage.optimizer, stage.progress, pipeline.transformer
    check_replaceable(stage.pipeline_folder)
    use_cpu_threads(options.cpu_threads, accelerator.device)
    if options.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    wrapped, optimizer = prepared(model.train(), make_optimizer(model, options), accelerator)
    averaged = AveragedWeights(model, options.ema_decay)
    choice = WeightChoice(progress, stage.name, averaged)
    states: dict[str, Saved] = {"averages": averaged, "choice": choice}
    if isinstance(loss_of, Saved):
        states["loss"] = loss_of
    checkpoints = TrainingCheckpoints(stage.output, stage.settings, accelerator, states, keep=progress.keep_checkpoints)
    first_step = checkpoints.start(resume=resume)
    trackers = Trackers(accelerator, stage.output, stage.settings, first_step)
    log = TrainingLog(stage.output, first_step, enabled=accelerator.is_main_process, listener=trackers)
    bar, smooth_loss = progress_bar(first_step, options.num_steps, accelerator), None
    called = compiled(wrapped) if options.compile else wrapped
    last_step = first_step if choice.is_over else options.num_steps
    for step in range(first_step, last_step):
        rate = learning_rate(step, options)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with seeded_global_generator(global_seed(stage.seed, step, accelerator)), accelerator.autocast():
            loss = loss_of(called, step)
        accelerator.backward(loss)
        grad_norm = accelerator.clip_grad_norm_(wrapped.parameters(), options.max_grad_norm)
        done = step + 1
        with update_norm(model, enabled=log.wants(done)) as update:
            optimizer.step()
        optimizer.zero_grad()
        averaged.step()
        mean_loss = float(accelerator.reduce(loss.detach(), "mean"))
        log.step(done, mean_loss, whole(grad_norm), rate, **update)
        smooth_loss = mean_loss if smooth_loss is None else 0.98 * smooth_loss + 0.02 * mean_loss
        bar.update()
        bar.set_postfix_str(f"loss {smooth_loss:.4f}", refresh=False)
        if due(done, progress.evaluate_every, options.num_steps):
            evaluate(done, probe, averaged, choice, log, accelerator)
        if due(done, progress.save_every, options.num_steps) or choice.is_over:
            checkpoints.save(done)
        if choice.is_over:
            break
    bar.close()
    log.draw()
    trackers.finish()
    choice.apply()
    if stage.pipeline_folder.is_relative_to(stage.output):
        check_still_there(stage.output)  # or saving would make it anew, with the pipeline alone
    return finish(pipeline, wrapped, averaged, stage.pipeline_folder, accelerator)


def evaluate(
    step: int,
    probe: PromptProbe,
    averaged: AveragedWeights,
    choice: WeightChoice,
    log: TrainingLog,
    accelerator: Accelerator,
) -> None:
    """Measure the averaged weights, log it, and let it count for the choice; all processes call this.

    One process measures, but of a sharded model all must take part.
    """
    measured: dict[str, Any] = {}
    if accelerator.is_main_process or is_sharded(accelerator):
        with averaged.applied():
            measured = probe.measure()
    if accelerator.is_main_process:
        log.evaluation(step, measured)
    if choice.is_wanted:
        team = Team(accelerator.process_index, accelerator.num_processes)
        choice.consider(step, team.from_first(measured))


def learning_rate(step: int, options: OptimizerConfig) -> float:
    """Linear warm-up, then a cosine to the final rate."""
    warmup = min(1.0, (step + 1) / max(1, options.warmup_steps))
    decay = cosine_decay(step / max(1, options.num_steps), options.final_learning_rate)
    return options.learning_rate * warmup * decay


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every so many steps, and at the last, happens now."""
    return bool(every) and (step % every == 0 or step == last)


def global_seed(seed: int, step: int, accelerator: Accelerator) -> int:
    """Of PyTorch's global generator at a step, from which dropout draws: each process draws its own."""
    return keyed_generator(seed, step, GLOBAL_STREAM, accelerator.process_index).initial_seed()


def progress_bar(first_step: int, num_steps: int, accelerator: Accelerator) -> Any:
    """Steps, loss and time left, on the main process and a terminal only."""
    disable = None if accelerator.is_main_process else True
    return tqdm(total=num_steps, initial=first_step, desc="training", unit="step", disable=disable)
