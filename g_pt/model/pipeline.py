"""The sampler around the network: start parameters and a prompt in, updated parameters out.

B = networks, P = parameters per network.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from g_pt.files.atomic import follow_umask
from g_pt.hub.download import resolve_model
from g_pt.hub.model_card import ModelDescription, model_card
from g_pt.hub.upload import upload_model
from g_pt.model.family_pipeline import FamilyPipeline
from g_pt.model.family_pipeline import SizeRangeWarning as SizeRangeWarning
from g_pt.model.model_folders import check_weights, checked_index, loading_bar, write_shims

# imported here, not lazily: diffusers loads components only from modules that are imported already
from g_pt.model.normalization import ParameterNormalizer
from g_pt.model.pipeline_inputs import PromptRangeWarning as PromptRangeWarning
from g_pt.model.pipeline_inputs import (
    Starts,
    check_callback_tensors,
    check_output_type,
    check_range,
    metric_per_network,
    start_params,
    to_generator,
    to_latents,
)
from g_pt.model.reference_scheduler import RespacedDDIMScheduler as RespacedDDIMScheduler
from g_pt.model.reference_transformer import ReferenceTransformer
from g_pt.model.sampling import Condition, finish_updates, sample
from g_pt.model.schedulers import check_num_steps, make_scheduler
from g_pt.model.transformer import ParameterTransformer
from g_pt.networks.metrics import Metric
from g_pt.networks.modules import module_params, write_module
from g_pt.networks.training_facts import TrainingFacts
from g_pt.tasks import BUILT_IN, is_family, is_registered, registered_task
from g_pt.tasks.base import Task

Module = TypeVar("Module", bound=nn.Module)


@dataclass
class ParameterUpdateOutput(BaseOutput):
    """Updated parameters (B, P), raw, and the starting metric (B,) that the update was conditioned on.

    NumPy arrays where `output_type="np"` was asked for.
    """

    params: Tensor
    starting_metric: Tensor


class ParameterUpdatePipeline(FamilyPipeline):
    """Samples one update of a network's parameters that should bring its metric to the prompted value."""

    model_cpu_offload_seq = "transformer"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        transformer: ParameterTransformer | ReferenceTransformer,
        normalizer: ParameterNormalizer,
        scheduler: SchedulerMixin,
        task: str | None = None,
        num_inference_steps: int = 20,
        training: TrainingFacts | dict[str, Any] | None = None,
    ) -> None:
        """Join the parts.

        Args:
            transformer: predicts x_0 or v, as the scheduler's `prediction_type` says.
            normalizer: between raw parameters and x.
            scheduler: any sampler of `g_pt.model.schedulers`.
            task: name of the task whose networks are updated; measures the starting metric.
            num_inference_steps: default number of sampling steps.
            training: facts of it, or their JSON, which is kept as it is in the configuration.

        Raises:
            ValueError: the facts are of wrong types, or such as the metric cannot have.
        """
        super().__init__()
        loading_bar(shown=True)
        facts = training if isinstance(training, TrainingFacts) else TrainingFacts.from_json(training or {})
        facts.check_metric(transformer.metric)
        self.register_modules(transformer=transformer, normalizer=normalizer, scheduler=scheduler)
        self.set_progress_bar_config(disable=None, leave=False, desc="sampling")  # None: on a terminal only
        self.register_to_config(task=task, num_inference_steps=num_inference_steps)
        self.register_to_config(training=facts.to_json() if isinstance(training, TrainingFacts) else training or {})

    @property
    def metric(self) -> Metric:
        """The prompted metric."""
        metric: Metric = self.transformer.metric
        return metric

    @cached_property
    def task(self) -> Task:
        """The task named in the configuration.

        It must be registered: a configuration may come from anywhere and cannot make this process import a file.
        A task of your own is registered by `get_task("my_task.py:MyTask")`.
        """
        if self.config.task is None:
            raise ValueError("this pipeline names no task; pass starting_metric= and measure the results yourself")
        if is_family(self.config.task):
            hidden = self.family.hidden_of(self.layout.unflatten(torch.zeros(self.layout.num_params)))
            task = self.family.member(hidden)
        else:
            task = registered_task(self.config.task)
        if task.layout != self.layout:
            raise ValueError(
                f"the pipeline updates networks of {self.layout.describe()}, but task {task.name!r} has "
                f"{task.layout.describe()}"
            )
        return task

    @classmethod
    def from_pretrained(cls, name: Path | str, **kwargs: Any) -> ParameterUpdatePipeline:
        """Load a bundled model, a folder or a Hub repository.

        Args:
            name: as for `g_pt.hub.download.resolve_model`.
            kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download` for the Hub; the rest
                goes to diffusers (components by name, `dtype`, ...).
        """
        options = ("revision", "token", "cache_dir", "local_files_only", "force_download")
        folder = resolve_model(name, **{key: kwargs.pop(key, None) for key in options})
        kwargs.setdefault("use_safetensors", True)  # never fall back to a pickle
        try:
            pipeline: ParameterUpdatePipeline = super().from_pretrained(str(folder), **kwargs)
            check_weights(pipeline.transformer, pipeline.normalizer)
        except Exception as error:  # whatever damaged files lead to
            reason = " ".join(str(error).split())[:300]
            raise OSError(f"{folder} cannot be loaded as a ParameterUpdatePipeline: {reason}") from error
        finally:
            loading_bar(shown=True)
        return pipeline

    @classmethod
    def load_config(cls, folder: Path | str, **kwargs: Any) -> dict[str, Any]:
        """Read model_index.json, having checked all of the folder; diffusers calls this before it loads anything."""
        return checked_index(Path(folder))

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Find the parts; diffusers, which may have been called instead of this class, loads them next."""
        loading_bar(shown=False)
        return super().extract_init_dict(config_dict, **kwargs)

    def save_pretrained(self, folder: Path | str, **options: Any) -> None:
        """Write a folder that `from_pretrained` reads, and diffusers alone where it may run the folder's code."""
        super().save_pretrained(folder, **options)
        write_shims(Path(folder))
        follow_umask(Path(folder))

    def model_card(self, repo_id: str, *, report: dict[str, Any] | None = None, license: str | None = None) -> str:
        """Markdown of a card, with the figures of a report of `gpt-evaluate --json`."""
        config, model = self.config, self.transformer
        described = ModelDescription(
            config.task, str(config.task).partition("[")[0] in BUILT_IN, self.metric, self.layout, self.facts,
            type(model).__name__, model.num_parameters(), model.config.prediction_type, type(self.scheduler).__name__,
            config.num_inference_steps,
        )  # fmt: skip
        return model_card(described, repo_id, report=report, license=license)

    def push_to_hub(
        self, repo_id: str, *, report: dict[str, Any] | None = None, license: str | None = None, **options: Any
    ) -> str:
        """Upload to a Hub repository with a model card; returns its address.

        Args:
            repo_id: "org/name"; made where it does not exist.
            report: what `gpt-evaluate --json` wrote; goes into the card and beside the model.
            license: identifier for the card, "apache-2.0" say.
            options: `private`, `replace_card`, `revision`, `token`, `endpoint` of `g_pt.hub.upload.upload_model`.

        Raises:
            OSError: the Hub refused it or is out of reach.
        """
        card = self.model_card(repo_id, report=report, license=license)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload_model(Path(folder), repo_id, card, report=report, **options)

    def set_scheduler(self, name: str) -> None:
        """Swap the sampler by name; the noise schedule stays that of the training."""
        self.scheduler: Any = make_scheduler(name, dict(self.scheduler.config))

    @torch.no_grad()
    def __call__(
        self,
        starting_params: Starts,
        prompted_metric: float | Tensor,
        starting_metric: float | Tensor | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | int | Sequence[torch.Generator | int] | None = None,
        latents: Tensor | None = None,
        *,
        output_type: str = "pt",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ParameterUpdateOutput:
        """Sample one update for each network.

        The task, where it is registered, then finishes the updated networks: tensors that training leaves as they are,
        such as frozen layers and constant buffers, are those of the start, and BatchNorm statistics, if any, are
        estimated anew from training data.

        Args:
            starting_params: (B, P) or (P,), raw: a tensor or an array; or a module, a state dict, or a list of these.
            prompted_metric: wanted metric, one for all networks or (B,), raw; it means the validation metric.
            starting_metric: one for all networks or (B,), raw; measured on the task's validation split where it is
                not given.
            num_inference_steps: sampling steps; the pipeline's default where it is not given.
            generator: of the sampling noise, or a seed, or a list with one of either for each network.
            latents: (B, P) standard normal noise that sampling begins with; drawn where it is not given. The same
                latents give the same update with a sampler that adds no noise of its own, such as DDIM.
            output_type: "pt" for tensors, "np" for arrays.
            return_dict: False for the tuple of what the output holds.
            callback_on_step_end: called as `(pipeline, step, timestep, {"latents": x_t})` after each step; x_t (B, P)
                is normalised, and what it returns under that name takes its place.
            callback_on_step_end_tensor_inputs: names of what the callback is given.

        Returns:
            Updated parameters (B, P), raw, and the starting metric (B,).

        Raises:
            ValueError: wrong types or shapes, no network, no sampling step, or values that are not finite.

        Warns:
            PromptRangeWarning: a prompt lies outside the metrics seen in training.
        """
        own = self.serving(starting_params)
        if own is not self:
            return own(
                starting_params, prompted_metric, starting_metric, num_inference_steps, generator, latents,
                output_type=output_type, return_dict=return_dict, callback_on_step_end=callback_on_step_end,
                callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            )  # fmt: skip
        device, dtype = self._execution_device, self.transformer.dtype
        check_output_type(output_type)
        check_callback_tensors(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        params = start_params(starting_params, self.layout, device)  # (B, P)
        num = len(params)
        if starting_metric is None:
            starting_metric = self._starting_metric(params)
        starting_metric = metric_per_network("starting", starting_metric, self.metric, num, device)  # (B,)
        prompt = metric_per_network("prompted", prompted_metric, self.metric, num, device)  # (B,)
        check_range(prompt, self.metric, self.facts)
        num_steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        check_num_steps(self.scheduler, num_steps)
        generators = to_generator(generator, num)

        x_start = self.normalizer.normalize(params).to(dtype)  # (B, P)
        if latents is None:
            latents = randn_tensor(x_start.shape, generator=generators, device=device, dtype=dtype)  # (B, P)
        noise = to_latents(latents, x_start.shape).to(device, dtype)
        condition = Condition(x_start, starting_metric, prompt)
        with self.progress_bar(total=num_steps) as bar:

            def on_step(step: int, t: Tensor, x_t: Tensor) -> Tensor:
                if step % self.scheduler.order == 0:  # a step of Heun calls the model twice
                    bar.update()
                if callback_on_step_end is None:
                    return x_t
                given = {"latents": x_t} if "latents" in callback_on_step_end_tensor_inputs else {}
                return (callback_on_step_end(self, step, t, given) or {}).get("latents", x_t)

            x_0 = sample(
                self.transformer, self.scheduler, condition, noise, num_steps, generator=generators, on_step=on_step
            )  # (B, P)
        updated = self.normalizer.unnormalize(x_0.float())  # (B, P)
        if is_registered(self.config.task):
            updated = finish_updates(self.task, updated, params)
        if not updated.isfinite().all():
            raise ValueError(
                "sampled parameters are not finite: damaged weights, or a scheduler that needs other steps"
            )
        output = ParameterUpdateOutput(params=updated, starting_metric=starting_metric)
        if output_type == "np":
            output = ParameterUpdateOutput(**{name: value.cpu().numpy() for name, value in output.items()})
        return output if return_dict else output.to_tuple()

    def update_module(
        self,
        module: Module,
        prompted_metric: float,
        starting_metric: float | None = None,
        *,
        num_inference_steps: int | None = None,
        generator: torch.Generator | None = None,
        in_place: bool = False,
    ) -> Module:
        """Give a module one update: a new module comes back, and the one given stays as it is.

        Mode, device, dtypes and `requires_grad` are the given module's; gradients are not taken along.

        Args:
            module: with the tensors of `layout`, by name and shape; other buffers of integers are kept.
            prompted_metric: wanted metric, raw; it means the validation metric.
            starting_metric: the module's own metric, raw; needed where the task of this pipeline is not registered.
            num_inference_steps: sampling steps; the pipeline's default where it is not given.
            generator: of the sampling noise.
            in_place: write the update into the module that was given, and return it.

        Raises:
            ValueError: the module's tensors are others (the message names the first), or hold NaN or infinity.
        """
        if (own := self.serving(module)) is not self:
            return own.update_module(
                module, prompted_metric, starting_metric, num_inference_steps=num_inference_steps, generator=generator,
                in_place=in_place,
            )  # fmt: skip
        start = module_params(module, self.layout)  # (P,)
        updated = self(
            start, prompted_metric, starting_metric, num_inference_steps=num_inference_steps, generator=generator
        ).params[0]
        target = module if in_place else copy.deepcopy(module)
        write_module(target, updated, self.layout)
        return target

    def _starting_metric(self, params: Tensor) -> Tensor:
        """Measured on the task's validation split: networks (B, P) to (B,)."""
        try:
            task = self.task
        except ValueError as error:
            if self.config.task is None:
                raise
            raise ValueError(f"the starting {self.metric.name} cannot be measured: {error}; or pass it") from error
        return task.evaluate(params, "validation")[self.metric.name]
