"""A walk through the sampling noise: one start, one prompt, and updates that change smoothly into one another.

F = frames, P = parameters per network.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from g_pt.evaluation.latents import latent_loop
from g_pt.report.section import Section, Subject, Table

NUM_ANCHORS, NUM_BETWEEN = 4, 12


def measure_latent_walk(subject: Subject) -> Section:
    """How the metric and the parameters change along a closed path through the noise; a film of the first layer."""
    generator, task, metric = subject.generator("latent_walk"), subject.task, subject.metric
    prompt = subject.best_prompt
    latents = latent_loop(NUM_ANCHORS, NUM_BETWEEN, task.layout.num_params, generator)  # (F, P)
    subject.progress(f"{len(latents)} updates of one start")
    start = task.init(1, generator).float()
    walked = subject.pipeline(
        start.expand(len(latents), -1),
        prompt,
        num_inference_steps=subject.num_inference_steps,
        generator=generator,
        latents=latents,
    ).params.cpu()
    achieved = task.evaluate(walked, "test")[metric.name].cpu()  # (F,)
    stride = (walked - walked.roll(-1, dims=0)).norm(dim=1)
    anchors = walked[::NUM_BETWEEN]
    apart = (anchors - anchors.roll(-1, dims=0)).norm(dim=1)
    moved = (walked - start).norm(dim=1)
    facts = {
        "prompt": prompt,
        "networks": 1,
        "frames": len(latents),
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
                f"{len(latents)} updates of one unseen init along a loop through {NUM_ANCHORS} draws of the noise, "
                f"prompt {prompt:.3g}; distances are L2 between parameters",
                (f"test {metric.name}", "from frame to frame: mean, largest", "between draws", "from the start"),
                (row,),
            ),
        ),
        notes=("One start, so no interval: the section `samples` has the spread over many.",),
        figures={"latent_walk.gif": partial(draw_walk, subject, walked, achieved)},
    )


def draw_walk(subject: Subject, walked: Tensor, achieved: Tensor, path: Path) -> None:
    """The film."""
    from g_pt.pictures.film import save_latent_walk

    layout = subject.task.layout
    name = next((n for n, shape in zip(layout.names, layout.shapes, strict=True) if len(shape) >= 2), layout.names[0])
    weights = layout.unflatten(walked)[name]
    save_latent_walk(torch.as_tensor(weights), achieved, path, subject.metric, name)
