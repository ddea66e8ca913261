"""How different the networks are that one start and one prompt lead to.

A G.pt samples from a distribution; a model that hits its prompts could do so with a single answer per start.

B = starts, S = samples of a start, P = parameters per network, N = examples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from g_pt.evaluation.statistics import Interval, bootstrap_mean
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.tasks.base import Split
from g_pt.tasks.classification import ClassificationTask, classification_error


@dataclass(frozen=True)
class Diversity:
    """Means over starts; distances are L2, between raw parameters.

    Attributes:
        within_start: distance between two samples of one start.
        between_starts: distance of samples of different starts.
        moved: distance from the start to its samples.
        distinct_errors: share of the samples of a start with a set of wrong answers of their own, in (0, 1].
        single_error: error of one sample in percent.
        ensemble_error: error in percent of the mean probabilities of all samples of a start.
    """

    within_start: Interval
    between_starts: Interval
    moved: Interval
    distinct_errors: Interval | None = None
    single_error: Interval | None = None
    ensemble_error: Interval | None = None


def measure_diversity(
    pipeline: ParameterUpdatePipeline,
    starts: Tensor,
    prompt: float,
    *,
    num_samples: int = 10,
    num_inference_steps: int | None = None,
    split: Split = "validation",
    generator: torch.Generator | None = None,
) -> Diversity:
    """Sample several updates of each start (B, P), raw, for one prompt.

    Errors and ensembles are those of classifiers; for other tasks they are None.

    Raises:
        ValueError: fewer than two starts or samples.
    """
    num_starts = len(starts)
    if min(num_starts, num_samples) < 2:
        raise ValueError(f"diversity needs 2 starts and 2 samples of each, got {num_starts} and {num_samples}")
    repeated = starts.repeat_interleave(num_samples, dim=0)  # (B*S, P)
    samples = pipeline(repeated, prompt, num_inference_steps=num_inference_steps, generator=generator).params
    samples = samples.view(num_starts, num_samples, -1)
    answers = {}
    if isinstance(pipeline.task, ClassificationTask):
        measured = error_diversity(pipeline.task, samples, split)
        answers = {name: bootstrap_mean(values) for name, values in measured.items()}
    return Diversity(
        within_start=bootstrap_mean(mean_distance(samples)),
        between_starts=bootstrap_mean(mean_distance(samples.transpose(0, 1))),
        moved=bootstrap_mean((samples - starts[:, None]).norm(dim=-1).mean(dim=1)),
        **answers,
    )


def mean_distance(networks: Tensor) -> Tensor:
    """Mean distance between two networks of each row: (B, S, P) to (B,)."""
    num = networks.shape[1]
    # products would lose the small distances between samples of one start
    distances = torch.cdist(networks, networks, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.sum(dim=(1, 2)) / (num * (num - 1))


@torch.no_grad()
def error_diversity(task: ClassificationTask, samples: Tensor, split: Split) -> dict[str, Tensor]:
    """Wrong answers of the samples of each start, (B, S, P), alone and together: (B,) each."""
    data = task.splits[split].to(samples.device)
    distinct, single, ensemble = [], [], []
    for networks in samples:  # (S, P)
        logits = task.forward(task.layout.unflatten(networks), data.inputs)  # (S, C, N)
        wrong = logits.argmax(dim=1) != data.labels  # (S, N)
        distinct.append(len(wrong.unique(dim=0)) / len(wrong))
        single.append(classification_error(logits, data.labels).mean().item())
        together = logits.softmax(dim=1).mean(dim=0, keepdim=True)  # (1, C, N)
        ensemble.append(classification_error(together, data.labels).item())
    return {
        "distinct_errors": torch.tensor(distinct),
        "single_error": torch.tensor(single),
        "ensemble_error": torch.tensor(ensemble),
    }
