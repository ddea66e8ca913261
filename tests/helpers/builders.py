"""Small models for the tests."""

import torch
from torch import nn

from g_pt.model.normalization import ParameterNormalizer
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.schedulers import make_scheduler, noise_schedule
from g_pt.model.transformer import ParameterTransformer
from g_pt.networks.metrics import Metric
from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec
from g_pt.tasks.mlp import mlp

LOSS = Metric("loss", unit="nats", transform="log")


def randomise(model: nn.Module, *, scale: float = 0.2, seed: int = 0) -> nn.Module:
    """Give every parameter random values, those that start at zero included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def layout_and_permutations(widths=(5, 7, 3)) -> tuple[ParameterLayout, PermutationSpec]:
    network = mlp(widths)
    return ParameterLayout.from_module(network), PermutationSpec.from_module(network, (widths[0],))


def build_transformer(widths=(5, 7, 3), **options) -> ParameterTransformer:
    layout, permutations = layout_and_permutations(widths)
    options = {"width": 16, "num_layers": 1, "num_heads": 2, "num_frequencies": 4} | options
    return ParameterTransformer(layout.to_json(), permutations.to_json(), LOSS.to_json(), **options)


def build_pipeline(task, scheduler: str = "ddim", **facts) -> ParameterUpdatePipeline:
    """An untrained pipeline for a task, its scale fitted on the task's initialisation."""
    transformer = ParameterTransformer(
        task.layout.to_json(), task.permutations.to_json(), next(iter(task.metrics.values())).to_json(),
        width=16, num_layers=1, num_heads=2, num_frequencies=4,
    )  # fmt: skip
    params = task.init(8, torch.Generator().manual_seed(1))
    pipeline = ParameterUpdatePipeline(
        transformer.eval(),
        ParameterNormalizer.fit(params, task.layout),
        make_scheduler(scheduler, noise_schedule()),
        task=task.name,
        num_inference_steps=3,
        training={
            "prompt_range": [0.05, 2.5],
            "attainable_range": list(transformer.metric.best_first(0.1, 2.3)),
            "trained_runs": {"num_runs": 8},
        }
        | facts,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
