"""A walk through the sampling noise: one start, one prompt, and updates that change smoothly into one another.

F = frames, P = parameters per network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from g_pt.evaluation.latents import latent_loop
from g_pt.report.section import Section, Subject, Table

NUM_ANCHORS, NUM_BETWEEN = 4, 12


@dataclass(frozen=True)
class Walk:
    """Updates of one start along a closed path through the sampling noise.

    Attributes:
        prompt: of every update.
        start: (P,), raw.
        params: (F, P) of the updated networks, raw.
        achieved: (F,) prompted metric, test split.
        between: frames from one draw of the noise to the next.
    """

    prompt: float
    start: Tensor
    params: Tensor
    achieved: Tensor
    between: int


def walk_latents(
    subject: Subject, prompt: float, generator: torch.Generator, num_anchors: int, num_between: int
) -> Walk:
    """Update one fresh network with noise from a loop through `num_anchors` draws, `num_between` frames each."""
    task = subject.task
    latents = latent_loop(num_anchors, num_between, task.layout.num_params, generator)  # (F, P)
    subject.progress(f"{len(latents)} updates of one start")
    start = task.init(1, generator).float()
    params = subject.pipeline(
        start.expand(len(latents), -1),
        prompt,
        num_inference_steps=subject.num_inference_steps,
        generator=generator,
        latents=latents,
    ).params.cpu()
    achieved = task.evaluate(params, "test")[subject.metric.name].cpu()
    return Walk(prompt, start[0], params, achieved, num_between)


def measure_latent_walk(subject: Subject) -> Section:
    """How the metric and the parameters change along a closed path through the noise; a film of the first layer."""
    prompt = subject.best_prompt
    return walk_section(
        subject, walk_latents(subject, prompt, subject.generator("latent_walk"), NUM_ANCHORS, NUM_BETWEEN)
    )


def walk_section(subject: Subject, walk: Walk) -> Section:
    """Facts, table and film of a walk."""
    metric, achieved = subject.metric, walk.achieved
    stride = (walk.params - walk.params.roll(-1, dims=0)).norm(dim=1)
    anchors = walk.params[:: walk.between]
    apart = (anchors - anchors.roll(-1, dims=0)).norm(dim=1)
    moved = (walk.params - walk.start).norm(dim=1)
    facts = {
        "prompt": walk.prompt,
        "networks": 1,
        "frames": len(walk.params),
        f"test_{metric.name}": [round(value, 6) for value in achieved.tolist()],
        "distance_between_frames": {"mean": stride.mean().item(), "largest": stride.max().item()},
        "distance_between_anchors": apart.mean().item(),
        "distance_from_start": moved.mean().item(),
    }
    row = (
        f"{achieved.min():.3g} to {achieved.max():.3g}",
        f"{stride.mean():.3g}, {stride.max():.3g}",
        f"{apart.mean():.3g}",
        f"{moved.mean():.3g}",
    )
    return Section(
        name="latent_walk",
        title="What does the sampling noise decide?",
        facts=facts,
        tables=(
            Table(
                f"{len(walk.params)} updates of one unseen init along a loop through {len(anchors)} draws of the "
                f"noise, prompt {walk.prompt:.3g}; distances are L2 between parameters",
                (f"test {metric.name}", "from frame to frame: mean, largest", "between draws", "from the start"),
                (row,),
            ),
        ),
        notes=("One start, so no interval: the section `samples` has the spread over many.",),
        figures={"latent_walk.gif": partial(draw_walk, subject, walk)},
    )


def draw_walk(subject: Subject, walk: Walk, path: Path) -> None:
    """The film."""
    from g_pt.pictures.film import save_latent_walk

    layout = subject.task.layout
    name = next((n for n, shape in zip(layout.names, layout.shapes, strict=True) if len(shape) >= 2), layout.names[0])
    weights = layout.unflatten(walk.params)[name]
    save_latent_walk(torch.as_tensor(weights), walk.achieved, path, subject.metric, name)
