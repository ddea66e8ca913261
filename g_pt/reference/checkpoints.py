"""From a training checkpoint of the reference to a pipeline, and back.

Its files are dicts with `G` (the weights as trained), `G_ema` (averaged, decay 0.9999) and `optim` (AdamW's state).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from g_pt.files.pickled import check_dense, read_pickled
from g_pt.files.schema import one_line
from g_pt.model.normalization import ParameterNormalizer
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.reference_scheduler import NUM_TRAIN_TIMESTEPS, make_reference_scheduler
from g_pt.model.reference_transformer import ReferenceTransformer
from g_pt.networks.metrics import Metric
from g_pt.networks.parameters import ParameterLayout
from g_pt.reference.released import RELEASED, data_facts, find_data
from g_pt.reference.settings import ReferenceSettings, metric_in_name
from g_pt.reference.weights import TensorFacts, load_reference_state, read_facts, without_prefixes
from g_pt.tasks import get_task
from g_pt.tasks.base import Task

Weights = Literal["ema", "raw"]
KEYS: dict[Weights, str] = {"ema": "G_ema", "raw": "G"}
UNITS = {"loss": ("nats", True), "error": ("%", True), "return": ("return", False)}
DEFAULT_COEFFICIENT = 4.185  # of the reference's data set class; its constant for MNIST
DEFAULT_STEPS = 50  # the reference always takes 1,000


@dataclass
class ImportedModel:
    """A pipeline, which weights it has, and what was assumed because nothing said it."""

    pipeline: ParameterUpdatePipeline
    weights: Weights
    notes: list[str] = field(default_factory=list)


def read_weights(path: Path, weights: Weights | None = None) -> tuple[dict[str, Tensor], Weights]:
    """Read one set of weights of a checkpoint, without running code and without reading the optimizer's state.

    Args:
        path: a file of `torch.save`.
        weights: which; EMA where there is one and nothing is asked for.

    Returns:
        The state dict, names without the prefixes of wrappers, and which weights these are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds more than tensors and numbers, or has no such weights.
    """
    content = read_pickled(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold a dict with G or G_ema, got a {type(content).__name__}")
    if any(name.endswith("decoder.pos_emb") for name in content if isinstance(name, str)):
        content = {"G": content}  # a bare state dict
    if weights is None:
        weights = "ema" if content.get("G_ema") is not None else "raw"
    state = content.get(KEYS[weights])
    if not isinstance(state, Mapping):
        has = [name for name in ("G", "G_ema") if content.get(name) is not None]
        raise ValueError(f"{path} has no {weights} weights ({KEYS[weights]!r}); it has {has or list(content)[:5]}")
    if not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path}: {KEYS[weights]!r} must hold tensors only")
    if not all(isinstance(name, str) for name in state):
        raise ValueError(f"{path}: {KEYS[weights]!r} must name its tensors by strings")
    tensors = without_prefixes(state)
    for name, tensor in tensors.items():
        check_dense(tensor, f"{path}: {name!r}")
        if not tensor.is_floating_point() and tensor.dtype != torch.bool:
            raise ValueError(f"{path}: {name!r} must hold floating-point numbers, got {tensor.dtype}")
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: {name!r} holds NaN or infinity: training diverged, or the file is damaged")
    return tensors, weights


def import_model(
    path: Path,
    settings: ReferenceSettings | None = None,
    *,
    weights: Weights | None = None,
    task: str | None = None,
    num_inference_steps: int = DEFAULT_STEPS,
    where: str = "the configuration",
) -> ImportedModel:
    """Make a pipeline from a checkpoint of the reference.

    What the tensors say is read off them; the rest comes from `settings`, then from what is known about the released
    model of the file's name. Number of heads and, where the frequencies are not in the file, their maximum must be
    said by one of them. Metric and normalisation fall back to the reference's own defaults, with a note.

    Args:
        path: the checkpoint.
        settings: of `read_settings`, or made by hand.
        weights: which; EMA where there is one and nothing is asked for.
        task: of the networks, by name or file:Class; found by their size where it is one of the reference's.
        num_inference_steps: default of the pipeline; the reference takes 1,000.
        where: name of the settings in error messages.

    Raises:
        ValueError: the file is not a G.pt of the reference, settings contradict it, or something is not said anywhere.
    """
    state, weights = read_weights(path, weights)
    try:
        facts = read_facts(state)
    except (ValueError, LookupError, TypeError, RuntimeError) as error:  # tensors of shapes that no such model has
        raise ValueError(f"{path} is no G.pt of the reference: {one_line(str(error), 300)}") from error
    settings = settings or ReferenceSettings()
    settings.check(facts, where)
    notes: list[str] = []
    released = RELEASED.get(path.stem)
    if released is not None and released.width == facts.width:
        settings = settings.over(ReferenceSettings(num_heads=released.num_heads, metric=released.metric))
    if settings.num_heads is not None and facts.width % settings.num_heads:
        raise ValueError(
            f"{where} says {settings.num_heads} attention heads, which must divide the model's width, {facts.width}"
        )
    if not 1 <= num_inference_steps <= NUM_TRAIN_TIMESTEPS:
        raise ValueError(
            f"num_inference_steps must be 1 to {NUM_TRAIN_TIMESTEPS}, the steps that the model was "
            f"trained with, got {num_inference_steps}"
        )
    found = find_task(facts, settings, task)
    layout = found.layout if found is not None else flat_layout(facts, settings)
    metric = find_metric(path, settings, found, notes)
    normalizer = ParameterNormalizer(layout.num_params)
    normalizer.std.fill_(1 / find_coefficient(layout, settings, notes))
    transformer = make_transformer(facts, settings, layout, metric)
    load_reference_state(transformer, state)
    pipeline = ParameterUpdatePipeline(
        transformer.eval(),
        normalizer,
        make_reference_scheduler(transformer.config.prediction_type),
        task=None if found is None else found.name,
        num_inference_steps=num_inference_steps,
        training=None if found is None else data_facts(found.name, metric.name),
    )
    return ImportedModel(pipeline, weights, notes)


def find_task(facts: TensorFacts, settings: ReferenceSettings, name: str | None) -> Task | None:
    """The task that was named, or the reference's with networks of this size; None where there is none."""
    if name is None:
        data = find_data(num_params=facts.num_params, tensor_sizes=settings.tensor_sizes)
        return None if data is None else get_task(data.task)
    task = get_task(name)
    if task.layout.num_params != facts.num_params:
        raise ValueError(
            f"the model updates networks of {facts.num_params} parameters, those of task {task.name!r} have "
            f"{task.layout.num_params}: name another task"
        )
    return task


def flat_layout(facts: TensorFacts, settings: ReferenceSettings) -> ParameterLayout:
    """Tensors as vectors, where only their sizes are known, or one vector where not even those."""
    sizes = settings.tensor_sizes or (facts.num_params,)
    names = settings.tensor_names or tuple(f"tensor{i}" for i in range(len(sizes)))
    return ParameterLayout(names, tuple((size,) for size in sizes))


def find_metric(path: Path, settings: ReferenceSettings, task: Task | None, notes: list[str]) -> Metric:
    """The metric that conditions the model."""
    name = settings.metric or metric_in_name(path.stem)
    if name is None:
        name = next(iter(task.metrics)) if task is not None else "loss"
        if task is None or len(task.metrics) > 1:
            notes.append(
                f"nothing says which metric the model was trained on: {name} is assumed, --metric says another"
            )
    if task is not None:
        return task.metric(name)
    unit, minimize = UNITS[name]
    return Metric(name, unit, minimize)


def find_coefficient(layout: ParameterLayout, settings: ReferenceSettings, notes: list[str]) -> float:
    """Scale of the raw parameters."""
    if settings.coefficient is not None:
        if not 0 < settings.coefficient < math.inf:
            raise ValueError(f"openai_coeff must be a positive number, got {settings.coefficient}")
        return settings.coefficient
    data = find_data(tensor_sizes=layout.sizes)
    coefficient = DEFAULT_COEFFICIENT if data is None else data.coefficient
    whose = "the reference's default, made for its MNIST networks" if data is None else f"that of {data.task}"
    notes.append(
        f"nothing says how parameters were normalised: openai_coeff {coefficient} is assumed, {whose}; --coefficient "
        "says another"
    )
    return coefficient


def make_transformer(
    facts: TensorFacts, settings: ReferenceSettings, layout: ParameterLayout, metric: Metric
) -> ReferenceTransformer:
    """A model of the architecture, its weights still to be loaded."""
    highest = facts.max_frequency_log2 if facts.max_frequency_log2 is not None else settings.max_frequency_log2
    missing = [
        what
        for what, value in (("n_head (--num-heads)", settings.num_heads), ("max_freq_log2", highest))
        if value is None
    ]
    if missing:
        raise ValueError(
            f"the weights do not say {' and '.join(missing)}: name the YAML or JSON that the model was trained with, "
            "--config FILE"
        )
    return ReferenceTransformer(
        layout.to_json(),
        metric.to_json(),
        list(facts.sizes.inputs),
        list(facts.sizes.outputs),
        width=facts.width,
        num_layers=facts.num_layers,
        num_heads=settings.num_heads,
        encoder_depth=facts.encoder_depth,
        decoder_depth=facts.decoder_depth,
        num_frequencies=facts.num_frequencies,
        max_frequency_log2=highest,
        absolute_metrics=facts.absolute_metrics,
        prediction_type="epsilon" if settings.predict_xstart is False else "sample",
        **settings.dropouts,
    )
