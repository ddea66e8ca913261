"""Denoising error of a model on held-out runs, tensor by tensor, and the spread of those runs.

B = pairs, P = parameters per network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from g_pt.model.diffusion import Noised, Objective, diffusion_loss
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.schedulers import training_schedule
from g_pt.runtime.seeds import keyed_generator
from g_pt.training.setup import HELD_OUT_STREAM, PairSource

HELD_OUT_BATCHES = 4


@dataclass(frozen=True)
class HeldOut:
    """Measured on pairs of held-out runs, always the same, with the same noise.

    Attributes:
        loss: mean squared error of the prediction.
        by_tensor: the same of each tensor of the layout.
        dispersion: of the better half of the later networks of the pairs; see `measure_dispersion`.
    """

    loss: float
    by_tensor: dict[str, float]
    dispersion: float


@torch.no_grad()
def measure_held_out(pipeline: ParameterUpdatePipeline, pairs: PairSource, *, batch_size: int, seed: int) -> HeldOut:
    """Measure the pipeline's model as it is, on a few batches."""
    device, layout = pipeline.transformer.device, pipeline.layout
    generator = keyed_generator(seed, HELD_OUT_STREAM)
    schedule = training_schedule(pipeline.scheduler.config).to(device)
    objective = Objective(pipeline.scheduler.config.prediction_type)
    losses, errors, networks, metrics = [], [], [], []
    for step in range(HELD_OUT_BATCHES):
        timesteps = torch.randint(len(schedule), (batch_size,), generator=generator).to(device)
        noise = torch.randn(batch_size, layout.num_params, generator=generator).to(device)
        batch = pairs(step, slice(None)).to(device)
        model = Recorder(pipeline.transformer)
        loss = diffusion_loss(model, pipeline.normalizer, batch, timesteps, noise, schedule, objective)
        losses.append(loss.item())
        x_0 = pipeline.normalizer.normalize(batch.future_params)
        noised = Noised.draw(objective.prediction_type, x_0, noise, timesteps, schedule)
        errors.append((model.predicted.float() - noised.target).square().mean(dim=0))
        networks.append(x_0)
        metrics.append(pipeline.metric.embedded(batch.future_metric))
    error = torch.stack(errors).mean(dim=0)  # (P,)
    by_tensor = {name: error[part].mean().item() for name, part in layout.slices.items()}
    order = torch.cat(metrics).argsort(descending=not pipeline.metric.minimize)
    better = torch.cat(networks)[order[: max(2, len(order) // 2)]]
    return HeldOut(sum(losses) / len(losses), by_tensor, measure_dispersion(better))


class Recorder:
    """A model that keeps its last prediction."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.predicted = torch.empty(0)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The prediction of the model."""
        self.predicted = self.model(*inputs)
        return self.predicted


def measure_dispersion(networks: Tensor) -> float:
    """Root mean squared distance of networks (N, P), normalised, from their mean, per parameter."""
    return (networks - networks.mean(dim=0)).square().mean().sqrt().item()
