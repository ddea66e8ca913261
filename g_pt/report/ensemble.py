"""Ensembles of sampled networks: K samples of one start, and one sample of each of K starts.

E = ensembles, K = members, P = parameters per network, N = examples.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation.ensembles import CALIBRATION, disagreement, ensemble_metrics, predictions, supervised
from g_pt.evaluation.statistics import bootstrap_mean, summary
from g_pt.model.prompting import update_networks
from g_pt.networks.metrics import Metric
from g_pt.report.section import Section, Subject, Table

ONE_START, MANY_STARTS = "one start", "a start each"


def sampled_members(subject: Subject, num_ensembles: int, num_samples: int, prompt: float) -> dict[str, Tensor]:
    """Sampled networks (E, K, P) of two kinds of ensembles, by their name: from one start, and from K starts."""
    generator, task = subject.generator("ensemble"), subject.task

    def sample(starts: Tensor, times: int) -> Tensor:
        subject.progress(f"{len(starts) * times} samples of {len(starts)} starts")
        prompts = torch.full((times,), prompt)
        steps = subject.num_inference_steps
        sampled = update_networks(subject.pipeline, starts, prompts, num_inference_steps=steps, generator=generator)
        return sampled.cpu().reshape(num_ensembles, num_samples, -1)

    return {
        ONE_START: sample(task.init(num_ensembles, generator).float(), num_samples),
        MANY_STARTS: sample(task.init(num_ensembles * num_samples, generator).float(), 1),
    }


def ensemble_sizes(num_samples: int) -> list[int]:
    """1, 2, 4, ... members, and all."""
    return sorted({num_samples, *(2**k for k in range(num_samples.bit_length()) if 2**k <= num_samples)})


def measure_ensemble(subject: Subject, num_ensembles: int, num_samples: int, prompt: float) -> Section:
    """Spread of samples, and metrics and calibration of ensembles of 1 to K of them, test split.

    Raises:
        ValueError: the task has no predictions to average, as policies have none.
    """
    task = supervised(subject.task)
    inputs = task.splits["test"].inputs
    sizes = ensemble_sizes(num_samples)
    courses: dict[str, dict[str, Tensor]] = {}
    facts: dict[str, Any] = {}
    spread, rows = [], []
    for kind, members in sampled_members(subject, num_ensembles, num_samples, prompt).items():
        answers = predictions(task, members.flatten(0, 1), inputs)
        answers = answers.view(num_ensembles, num_samples, *answers.shape[1:])
        by_size = [ensemble_metrics(task, answers[:, :size]) for size in sizes]
        courses[kind] = {name: torch.stack([m[name] for m in by_size], dim=1) for name in by_size[0]}  # (E, S)
        single = task.evaluate(members.flatten(0, 1), "test")[subject.metric.name].view(num_ensembles, num_samples)
        differ, apart = disagreement(task, answers), distances(members)
        facts[kind] = {
            "standard_deviation": summary(single.std(dim=1)),
            "disagreement": summary(differ),
            "distance": summary(apart),
            "metrics": {
                str(size): {name: summary(values[:, i]) for name, values in courses[kind].items()}
                for i, size in enumerate(sizes)
            },
        }
        spread.append((kind, *(f"{bootstrap_mean(v):.3g}" for v in (single.std(dim=1), differ, apart))))
        for i, size in enumerate(sizes):
            rows.append((f"{size}, {kind}", *(f"{bootstrap_mean(v[:, i]):.3g}" for v in courses[kind].values())))
    metrics = {**task.metrics, **CALIBRATION}
    names = list(courses[ONE_START])
    unit = "%" if "ece" in names else "label units"
    return Section(
        name="ensemble",
        title="What does an ensemble of samples bring?",
        facts={"prompt": prompt, "ensembles": num_ensembles, "sizes": sizes, "kinds": facts},
        tables=(
            Table(
                f"{num_samples} samples for prompt {prompt:.3g}: means over {num_ensembles} ensembles, test split",
                ("samples of", f"deviation of {subject.metric.name}", f"disagreement ({unit})", "distance (L2)"),
                tuple(spread),
            ),
            Table(
                "the mean of their predictions, test split",
                ("members", *(metrics[name].label for name in names)),
                tuple(rows),
            ),
        ),
        notes=(
            "Disagreement: examples on which two members answer differently, or the deviation of their numbers. "
            "One member is one sample.",
        ),
        figures={"ensemble.png": partial(draw_ensemble, sizes, courses, metrics, num_ensembles)},
    )


def distances(members: Tensor) -> Tensor:
    """Mean L2 distance between two members, parameters as they are: (E, K, P) to (E,)."""
    num = members.shape[1]
    return torch.cdist(members, members).sum(dim=(1, 2)) / (num * (num - 1))


def draw_ensemble(
    sizes: list[int], courses: dict[str, dict[str, Tensor]], metrics: dict[str, Metric], num: int, path: Path
) -> None:
    """Each metric over the number of members, a line per kind of ensemble."""
    from g_pt.pictures.studies import save_ensemble

    save_ensemble(sizes, courses, metrics, num, path)
