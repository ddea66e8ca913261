"""Distances and metrics of the runs: one yardstick for samples, baselines and fresh networks.

B = networks, R = training runs, P = parameters per network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from g_pt.evaluation.novelty.errors_in_common import overlap_of_peers, overlaps, wrong_answers
from g_pt.evaluation.novelty.nearest import NearestNetworks, NetworkDistance
from g_pt.evaluation.novelty.spread import Spread, spread
from g_pt.evaluation.runs import RunSet
from g_pt.networks.metrics import Metric
from g_pt.tasks.base import Task
from g_pt.tasks.classification import ClassificationTask

POINTS_OF_ERROR = 4.0  # on digits: 93 % accuracy, where runs have 97 %
SHARE_OF_THE_WAY = 0.95


@dataclass(frozen=True)
class AccuracyBar:
    """From which test metric on a network is accurate, and the rule it comes from, in words."""

    metric: Metric
    threshold: float
    rule: str

    def passed(self, values: Tensor) -> Tensor:
        """Which of the values are at least as good: bool."""
        return values <= self.threshold if self.metric.minimize else values >= self.threshold


@dataclass(frozen=True)
class Behaviour:
    """Of B networks; the last three for classifiers only.

    Attributes:
        params: (B, P), raw.
        metrics: `{metric: (B,)}` on the test split.
        distance: (B,) to the nearest training run.
        overlap_nearest: (B,) share of mistakes in common with that run.
        overlap_most: (B,) with the training run with which it is largest.
        overlap_peers: (B,) the same of held-out runs with as many mistakes; NaN where no held-out run has as many.
    """

    params: Tensor
    metrics: dict[str, Tensor]
    distance: Tensor
    overlap_nearest: Tensor | None = None
    overlap_most: Tensor | None = None
    overlap_peers: Tensor | None = None


def accuracy_bar(task: Task, metric: Metric, starts: Tensor, trained: Tensor) -> AccuracyBar:
    """Set the bar of a task by its held-out runs: test metrics of their starts and of their ends, (B,) each.

    Classifiers may make 4 percentage points more mistakes than the runs do in the mean. For other tasks networks have
    to come 95 % of the way from the mean of the starts to the mean of the runs.
    """
    if isinstance(task, ClassificationTask):
        rule = f"error at most {POINTS_OF_ERROR:g} percentage points above the held-out runs' mean"
        return AccuracyBar(task.metric("error"), trained.mean().item() + POINTS_OF_ERROR, rule)
    threshold = starts.mean().lerp(trained.mean(), SHARE_OF_THE_WAY).item()
    rule = f"{metric.name} at least {SHARE_OF_THE_WAY:.0%} of the way from the starts' mean to the held-out runs' mean"
    return AccuracyBar(metric, threshold, rule)


class Yardstick:
    """Compares networks with training runs and with held-out runs.

    Attributes:
        bar: what counts as accurate.
        held_out: the held-out runs that others are compared with.
        training: as many training runs, each compared with the OTHER training runs.
        training_spread: distances of random pairs of training runs.
    """

    def __init__(
        self,
        task: Task,
        metric: Metric,
        training: RunSet,
        held_out: RunSet,
        num_networks: int,
        generator: torch.Generator,
    ) -> None:
        """Measure the runs.

        Args:
            task: of the runs.
            metric: what is accurate, where the task has no errors in percent.
            training: runs that others are compared with.
            held_out: runs of the same kind that were not trained on.
            num_networks: training runs that are measured, drawn at random, and pairs of them.
            generator: of the draw.
        """
        self.task, self.distance = task, NetworkDistance(task.layout, task.permutations)
        self.search = NearestNetworks(training.ends, self.distance)
        self.classifier = task if isinstance(task, ClassificationTask) else None
        self.wrong = wrong_answers(self.classifier, training.ends) if self.classifier else None
        metric = task.metric("error") if self.classifier else metric
        starts, ends = (task.evaluate(p, "test")[metric.name] for p in (held_out.starts, held_out.ends))
        self.bar = accuracy_bar(task, metric, starts, ends)
        self._peers: tuple[Tensor, Tensor] | None = None
        self.held_out = self.measure(held_out.ends)
        if self.classifier:
            assert self.held_out.overlap_most is not None
            self._peers = wrong_answers(self.classifier, held_out.ends), self.held_out.overlap_most
        rows = torch.randperm(len(training.ends), generator=generator)[:num_networks]
        self.training = self.measure(training.ends[rows], exclude=rows)
        self.training_spread = self.spread(training.ends, num_networks, generator)

    def measure(self, params: Tensor, *, exclude: Tensor | None = None) -> Behaviour:
        """Compare networks (B, P) with the training runs, but for one each, `exclude` (B,)."""
        metrics = self.task.evaluate(params, "test")
        nearest = self.search(params, exclude=exclude)
        if self.classifier is None or self.wrong is None:
            return Behaviour(params, metrics, nearest.distance)
        wrong = wrong_answers(self.classifier, params)
        shared = overlaps(wrong, self.wrong)  # (B, R)
        own = torch.arange(len(params))
        if exclude is not None:
            shared[own, exclude] = -1
        peers = None
        if self._peers is not None:
            peers = overlap_of_peers(wrong, *self._peers)
            counts, known = wrong.sum(dim=1), self._peers[0].sum(dim=1)
            peers[(counts < known.min()) | (counts > known.max())] = torch.nan
        return Behaviour(params, metrics, nearest.distance, shared[own, nearest.row], shared.amax(dim=1), peers)

    def spread(self, params: Tensor, num_pairs: int, generator: torch.Generator) -> Spread:
        """Distances of random pairs of networks (B, P)."""
        return spread(params, self.distance, num_pairs, generator)

    @property
    def novel_from(self) -> float:
        """Median distance of a training run to the nearest OTHER training run: farther than that is novel."""
        return self.training.distance.median().item()
