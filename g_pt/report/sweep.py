"""Networks for a whole range of prompts from one start, and their answers to a few questions.

K = prompts, M = questions, P = parameters per network, C = classes or actions, O = size of an observation.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation.ensembles import predictions
from g_pt.evaluation.statistics import prompt_alignment, rank_correlation
from g_pt.model.prompting import measure_updates, update_networks
from g_pt.pictures.studies import Answers
from g_pt.report.section import Section, Subject, Table
from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.supervised import SupervisedTask
from rl_tasks.distributions import Categorical
from rl_tasks.episodes import episode_observations
from rl_tasks.task import GymnasiumTask

NUM_QUESTIONS, CURVE_POINTS, TABLE_ROWS = 5, 200, 8


def measure_sweep(subject: Subject, prompts: Tensor) -> Section:
    """Prompted against achieved for one fresh network and prompts (K,), test split, and the answers of its updates.

    Raises:
        ValueError: the task has neither labelled examples nor an environment.
    """
    generator, task, name = subject.generator("sweep"), subject.task, subject.metric.name
    start = task.init(1, generator).float()
    subject.progress(f"{len(prompts)} updates of one start")
    steps = subject.num_inference_steps
    updated = update_networks(subject.pipeline, start, prompts, num_inference_steps=steps, generator=generator)
    answers = measure_answers(subject, updated[0].cpu())
    metrics = {m: values[0] for m, values in measure_updates(task, updated, "test").items()}  # (K,) each
    before = {m: values.item() for m, values in task.evaluate(start, "test").items()}
    alignment = prompt_alignment(prompts, metrics[name][None]).item()
    correlation = rank_correlation(prompts, metrics[name][None]).item()
    shown = torch.linspace(0, len(prompts) - 1, min(TABLE_ROWS, len(prompts))).round().long().tolist()
    rows = [("before", *(f"{before[m]:.3g}" for m in metrics))]
    rows += [(f"{prompts[k]:.3g}", *(f"{metrics[m][k]:.3g}" for m in metrics)) for k in shown]
    facts: dict[str, Any] = {
        "prompts": prompts.tolist(),
        **{f"test_{m}": values.tolist() for m, values in metrics.items()},
        "before": before,
        "alignment": alignment,
        "rank_correlation": correlation,
    }
    return Section(
        name="sweep",
        title="What does the prompt change?",
        facts=facts,
        tables=(
            Table(
                f"{len(prompts)} updates of one unseen init, test split; alignment {alignment:.3f}, rank correlation "
                f"{correlation:.3f}",
                (f"prompted {subject.metric.label}", *(task.metrics[m].label for m in metrics)),
                tuple(rows),
            ),
        ),
        notes=("One start, one sample for each prompt, so no interval: `gpt-evaluate` has many.",),
        figures={"sweep.png": partial(draw_sweep, subject, prompts, metrics[name], answers)},
    )


def measure_answers(subject: Subject, params: Tensor) -> Answers:
    """Answers of networks (K, P) to a few questions of the test split.

    Raises:
        ValueError: the task has neither labelled examples nor an environment.
    """
    task = subject.task
    if isinstance(task, ClassificationTask):
        return class_answers(task, params)
    if isinstance(task, SupervisedTask):
        return number_answers(task, params)
    if isinstance(task, GymnasiumTask):
        return policy_answers(task, params, subject)
    raise ValueError(f"task {task.name!r} has neither labelled examples nor an environment to ask its networks about")


def class_answers(task: ClassificationTask, params: Tensor) -> Answers:
    """Class probabilities of the first test example of each of a few classes."""
    data = task.splits["test"]
    labels = data.labels.tolist()
    rows = sorted(labels.index(label) for label in set(labels))[:NUM_QUESTIONS]
    asked = data.inputs[rows]
    shares = predictions(task, params, asked)  # (K, C, M)
    return Answers(
        "shares",
        shares.permute(2, 1, 0),
        [f"test example {row}, label {labels[row]}" for row in rows],
        "class",
        [str(c) for c in range(shares.shape[1])],
        images=as_pictures(asked),
    )


def as_pictures(inputs: Tensor) -> Tensor | None:
    """Inputs (M, ...) as grey images (M, height, width), where they are images or the pixels of square ones."""
    if inputs.dim() == 4:
        return inputs.mean(dim=1)
    side = round(inputs[0].numel() ** 0.5)
    return inputs.view(-1, side, side) if side * side == inputs[0].numel() and side >= 5 else None


def number_answers(task: SupervisedTask, params: Tensor) -> Answers:
    """Predictions over the one input of a regression; of several inputs or numbers, those for a few test examples."""
    data = task.splits["test"]
    if data.inputs[0].numel() == 1 and data.labels[0].numel() == 1:
        low, high = data.inputs.min().item(), data.inputs.max().item()
        xs = torch.linspace(low, high, CURVE_POINTS)
        curves = predictions(task, params, xs.view(-1, *data.inputs.shape[1:])).reshape(len(params), -1)
        points = (data.inputs.flatten(), data.labels.flatten())
        return Answers("curve", curves, ["a curve for each prompt"], "prediction", inputs=xs, points=points)
    asked = data.inputs[:NUM_QUESTIONS]
    numbers = predictions(task, params, asked).reshape(len(params), -1, len(asked))  # (K, C, M)
    names = [f"output {c}" for c in range(numbers.shape[1])]
    titles = [f"test example {row}" for row in range(len(asked))]
    return Answers("numbers", numbers.permute(2, 1, 0), titles, "prediction", names)


def policy_answers(task: GymnasiumTask, params: Tensor, subject: Subject) -> Answers:
    """Action probabilities, or mean actions, in states on the way of the policy (K, P) with the best metric."""
    best = int(subject.metric.argbest(task.evaluate(params, "validation")[subject.metric.name]))
    environment = task.make_environment()
    own = task.layout.unflatten(params[best : best + 1])
    visited = episode_observations(environment, task.facts, task.act, own, seed=subject.seed)
    environment.close()
    times = torch.linspace(0, len(visited) - 1, min(NUM_QUESTIONS, len(visited))).long()
    seen = visited[times].expand(len(params), -1, -1).contiguous()  # (K, M, O)
    outputs = task.forward(task.layout.unflatten(params), seen)  # (K, M, C)
    titles = [f"state after {step} steps of the best policy" for step in times.tolist()]
    if isinstance(task.facts.distribution, Categorical):
        shares = outputs.softmax(dim=-1).permute(1, 2, 0)
        return Answers("shares", shares, titles, "action", [str(c) for c in range(shares.shape[1])])
    actions = task.facts.distribution.mode(outputs).permute(1, 2, 0)
    names = [f"action {c}" for c in range(actions.shape[1])]
    return Answers("numbers", actions, titles, "mean action", names)


def draw_sweep(subject: Subject, prompts: Tensor, achieved: Tensor, answers: Answers, path: Path) -> None:
    """The picture."""
    from g_pt.pictures.studies import save_sweep

    save_sweep(prompts, achieved, answers, path, subject.metric)
