"""Where one update lands, beside where training goes: from the same start.

R = networks, C = points of a training run, P = parameters per network, G = points along a line or a side of a grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation.statistics import bootstrap_mean, summary
from g_pt.networks.metrics import Metric
from g_pt.report.courses import measured_steps
from g_pt.report.population import at_rate, most_iterations
from g_pt.report.section import Section, Subject, Table
from g_pt.tasks.base import PopulationTask, Split, Task, TrainableTask
from g_pt.update_rules.gradient import GradientRule
from g_pt.update_rules.problem import follow

NUM_NETWORKS, NUM_DRAWN, NUM_LADDER = 16, 6, 5
LINE_POINTS, GRID_POINTS, MARGIN = 11, 31, 0.35


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
    """Runs (R, C, P) of networks the model never saw: trained here as its own runs were, or held-out ones.

    Runs that diverge are left out, as where the settings of recorded runs are not known and the defaults do not suit
    them. None for policies without training runs at hand: `policy_runs` trains some.
    """
    task = subject.task
    if isinstance(task, TrainableTask):
        config = subject.harvest
        rule = replace(config.rule, schedule="constant") if isinstance(config.rule, GradientRule) else config.rule
        length = min(config.num_steps, subject.optimizer_steps)
        generator = subject.generator("landscape/training")
        starts = task.init(num, generator).float()
        path = follow(rule, task, starts, generator, batch_size=config.batch_size, steps=[0, *measured_steps(length)])
        runs = torch.stack([params for params, _ in path], dim=1)
        return runs[runs.isfinite().flatten(1).all(dim=1)]
    return None if subject.runs is None else subject.runs.held_out.trajectories[:num]


def policy_runs(subject: Subject, num: int) -> Tensor:
    """PPO runs (R, C, P) from fresh policies, with the settings of the model's own runs at a middle constant rate.

    Raises:
        ValueError: the task says neither by a loss on examples nor by a population how its networks are trained.
    """
    task = subject.task
    if not isinstance(task, PopulationTask):
        raise ValueError(f"task {task.name!r} does not say how its networks are trained, so there is no path to draw")
    usual = subject.harvest.ppo
    low, high = usual.learning_rate_range
    points = [0, *measured_steps(most_iterations(subject))]
    generator = subject.generator("landscape/training")
    trained = task.train_population(num, points, at_rate(usual, (low * high) ** 0.5), generator, dtype=torch.float32)
    return trained.params


def updates_beside(
    subject: Subject, runs: Tensor, generator: torch.Generator, prompt: float, num_prompts: int
) -> Paths:
    """Update the starts of runs (R, C, P) for one prompt, and for prompts over the attainable range."""
    prompts = subject.attainable_prompts(num_prompts)
    options: dict[str, Any] = {"num_inference_steps": subject.num_inference_steps, "generator": generator}
    repeated = runs[:, 0].repeat_interleave(len(prompts), dim=0)
    ladder = subject.pipeline(repeated, prompts.repeat(len(runs)), **options).params.cpu()
    updates = subject.pipeline(runs[:, 0], prompt, **options).params.cpu()
    return Paths(runs, updates, ladder.view(len(runs), -1, runs.shape[-1]))


def landscape_split(task: Task) -> Split:
    """The split on which many networks are measured.

    The test split of policies runs in Gymnasium itself, which a thousand networks would take long for.
    """
    return "test" if isinstance(task, TrainableTask) else "validation"


def measure_landscape(subject: Subject) -> Section | None:
    """Distances and barriers between update and training run; the loss in their plane, and their paths."""
    subject.progress("training runs from the same starts")
    runs = training_runs(subject, min(subject.num_networks, NUM_NETWORKS))
    if runs is None or len(runs) < 2:
        return None
    generator = subject.generator("landscape")
    prompt = subject.best_prompt
    paths = updates_beside(subject, runs, generator, prompt, NUM_LADDER)
    split = landscape_split(subject.task)
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


@dataclass(frozen=True)
class Plane:
    """A metric over the plane through start, update and trained network, the start at its origin.

    Attributes:
        xs: (G,) coordinates from start to trained.
        ys: (G,) across it, towards the update.
        values: (G, G) metric at [y, x].
        run: (C, 2) training, projected.
        jump: (2,) end of the update.
        split: of the metric.
    """

    xs: Tensor
    ys: Tensor
    values: Tensor
    run: Tensor
    jump: Tensor
    split: Split


def metric_plane(
    task: Task, metric: Metric, run: Tensor, update: Tensor, split: Split, num_points: int = GRID_POINTS
) -> Plane:
    """Measure the plane of a training run (C, P), whose first point is the start, and the update (P,) of that start."""
    start = run[0]
    axes = plane(start, run[-1], update)
    projected, jump = (run - start) @ axes.T, (update - start) @ axes.T  # (C, 2), (2,)
    corners = torch.cat([projected, jump[None]])
    low, high = corners.amin(dim=0), corners.amax(dim=0)
    room = MARGIN * (high - low)
    xs, ys = (torch.linspace(float(a), float(b), num_points) for a, b in zip(low - room, high + room, strict=True))
    x, y = torch.meshgrid(xs, ys, indexing="xy")
    grid = start + torch.stack([x.flatten(), y.flatten()], dim=1) @ axes  # (G*G, P)
    values = task.evaluate(grid, split)[metric.name].cpu().view(num_points, num_points)
    return Plane(xs, ys, values, projected, jump, split)


def draw_plane(subject: Subject, paths: Paths, split: Split, path: Path) -> None:
    """The metric in the plane of the first network's start, update and trained solution."""
    from g_pt.pictures.sections import save_plane

    found = metric_plane(subject.task, subject.metric, paths.runs[0], paths.updates[0], split)
    save_plane(found.xs, found.ys, found.values, found.run, found.jump, path, subject.metric, split)


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
