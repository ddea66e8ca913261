"""Where one update lands, beside where training goes: from the same start.

R = networks, C = points of a training run, P = parameters per network, G = points along a line or a side of a grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation.statistics import bootstrap_mean, summary
from g_pt.report.optimizers import measured_steps
from g_pt.report.section import Section, Subject, Table
from g_pt.tasks.base import Split, TrainableTask
from g_pt.update_rules.base import GradientRule

NUM_NETWORKS, NUM_DRAWN = 16, 6
LINE_POINTS, GRID_POINTS, MARGIN = 11, 31, 0.35
TRAINING_STEPS = 400


@dataclass(frozen=True)
class Paths:
    """Training runs and updates from the same starts.

    Attributes:
        runs: (R, C, P): the start, then the run's points, the last one trained.
        updates: (R, P) after one update for the best prompt.
        ladder: (R, K, P) after one update for prompts over the attainable range.
    """

    runs: Tensor
    updates: Tensor
    ladder: Tensor


def training_runs(subject: Subject, num: int) -> Tensor | None:
    """Runs (R, C, P) of networks the model never saw: trained here as its own runs were, or held-out ones."""
    task = subject.task
    if isinstance(task, TrainableTask):
        source = subject.pipeline.facts.dataset.source
        rule = GradientRule(
            task,
            "training",
            source.get("optimizer", "nesterov"),
            source.get("learning_rate", 0.1),
            source.get("momentum", 0.9),
            source.get("weight_decay", 5e-4),
            source.get("batch_size", 64),
        )
        length = min(int(source.get("num_steps", TRAINING_STEPS)), subject.optimizer_steps)
        generator = subject.generator("landscape/training")
        starts = task.init(num, generator).float()
        steps = measured_steps(length)
        points = [p for k, p in enumerate(islice(rule.updates(starts, generator), length), start=1) if k in steps]
        return torch.stack([starts, *points], dim=1)
    return None if subject.runs is None else subject.runs.held_out.trajectories[:num]


def measure_landscape(subject: Subject) -> Section | None:
    """Distances and barriers between update and training run; the loss in their plane, and their paths."""
    subject.progress("training runs from the same starts")
    runs = training_runs(subject, min(subject.num_networks, NUM_NETWORKS))
    if runs is None or len(runs) < 2:
        return None
    generator = subject.generator("landscape")
    prompt = subject.best_prompt
    prompts = subject.attainable_prompts(5)
    options: dict[str, Any] = {"num_inference_steps": subject.num_inference_steps, "generator": generator}
    repeated = runs[:, 0].repeat_interleave(len(prompts), dim=0)
    ladder = (
        subject.pipeline(repeated, prompts.repeat(len(runs)), **options)
        .params.cpu()
        .view(len(runs), -1, runs.shape[-1])
    )
    paths = Paths(runs, subject.pipeline(runs[:, 0], prompt, **options).params.cpu(), ladder)
    # the test split of policies runs in Gymnasium itself, which a thousand networks would take long for
    split: Split = "test" if isinstance(subject.task, TrainableTask) else "validation"
    subject.progress("straight lines")
    values = line_facts(subject, paths, split)
    name = subject.metric.name
    labels = {
        "start_to_update": "start to update",
        "start_to_trained": "start to trained",
        "update_to_trained": "update to trained",
        "cosine": "cosine of both ways from the start",
        "barrier": f"barrier between update and trained ({name})",
    }
    return Section(
        name="landscape",
        title="Where does an update land?",
        facts={"prompt": prompt, "split": split, **{key: summary(v) for key, v in values.items()}},
        tables=(
            Table(
                f"one update and training from the same start: {len(runs)} unseen inits, prompt {prompt:.3g}, "
                f"{split} split; distances are L2 between parameters",
                ("what", "mean"),
                tuple((labels[key], f"{bootstrap_mean(v):.3g}") for key, v in values.items()),
            ),
        ),
        notes=(
            f"The barrier is how much worse the worst of {LINE_POINTS} points on the straight line from update to "
            "trained network is than the worse of its two ends: 0 where they share a valley.",
        ),
        figures={
            "landscape.png": partial(draw_plane, subject, paths, split),
            "trajectories.png": partial(draw_paths, paths),
        },
    )


def line_facts(subject: Subject, paths: Paths, split: Split) -> dict[str, Tensor]:
    """One value per network, (R,) each."""
    start, trained, update = paths.runs[:, 0], paths.runs[:, -1], paths.updates
    fractions = torch.linspace(0, 1, LINE_POINTS)[:, None]
    line = torch.lerp(update[:, None], trained[:, None], fractions)  # (R, G, P)
    measured = subject.task.evaluate(line.flatten(0, 1), split)[subject.metric.name].cpu().view(len(line), -1)
    badness = measured if subject.metric.minimize else -measured
    return {
        "start_to_update": (update - start).norm(dim=1),
        "start_to_trained": (trained - start).norm(dim=1),
        "update_to_trained": (trained - update).norm(dim=1),
        "cosine": torch.cosine_similarity(update - start, trained - start, dim=1),
        "barrier": (badness.amax(dim=1) - badness[:, [0, -1]].amax(dim=1)).clamp(min=0),
    }


def plane(start: Tensor, trained: Tensor, update: Tensor) -> Tensor:
    """Orthonormal axes (2, P) of the plane through three points (P,): the first points from start to trained."""
    first = torch.nn.functional.normalize(trained - start, dim=0)
    across = (update - start) - ((update - start) @ first) * first
    return torch.stack([first, torch.nn.functional.normalize(across, dim=0)])


def draw_plane(subject: Subject, paths: Paths, split: Split, path: Path) -> None:
    """The metric in the plane of the first network's start, update and trained solution."""
    from g_pt.pictures.sections import save_plane

    start, update = paths.runs[0, 0], paths.updates[0]
    axes = plane(start, paths.runs[0, -1], update)
    run, jump = (paths.runs[0] - start) @ axes.T, (update - start) @ axes.T  # (C, 2), (2,)
    corners = torch.cat([run, jump[None]])
    low, high = corners.amin(dim=0), corners.amax(dim=0)
    room = MARGIN * (high - low)
    xs, ys = (torch.linspace(float(a), float(b), GRID_POINTS) for a, b in zip(low - room, high + room, strict=True))
    x, y = torch.meshgrid(xs, ys, indexing="xy")
    grid = start + torch.stack([x.flatten(), y.flatten()], dim=1) @ axes  # (G*G, P)
    values = subject.task.evaluate(grid, split)[subject.metric.name].cpu().view(GRID_POINTS, GRID_POINTS)
    save_plane(xs, ys, values, run, jump, path, subject.metric, split)


def draw_paths(paths: Paths, path: Path) -> None:
    """Training runs and updates in the two principal directions of the runs."""
    from g_pt.pictures.sections import save_paths

    runs = paths.runs[:NUM_DRAWN]
    # seen from its start: between starts lies mostly the order of their units
    moves = (runs - runs[:, :1]).flatten(0, 1)
    centred = moves - moves.mean(dim=0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:2]  # (2, P)
    explained = (centred @ axes.T).square().sum() / centred.square().sum()
    start = runs[:, :1]
    save_paths((runs - start) @ axes.T, (paths.ladder[:NUM_DRAWN] - start) @ axes.T, explained.item(), path)
