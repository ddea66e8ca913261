"""Ensembles: networks that answer by the mean of their predictions (Lakshminarayanan et al. 2017).

E = ensembles, K = members, B = networks, P = parameters per network, N = examples, C = classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from g_pt.networks.metrics import Metric
from g_pt.tasks.base import Split, Task
from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.regression import RegressionTask
from g_pt.tasks.supervised import SupervisedTask

NUM_BINS = 15
NETWORKS_AT_ONCE, INPUTS_AT_ONCE = 64, 1024  # of a mean over many
CALIBRATION = {
    "ece": Metric("calibration error", "%"),
    "coverage": Metric("labels between the members' extremes", "%", minimize=False),
}


def supervised(task: Task) -> SupervisedTask:
    """The task, which must have labelled examples whose predictions can be averaged.

    Raises:
        ValueError: it is of policies, or of another kind.
    """
    if not isinstance(task, ClassificationTask | RegressionTask):
        raise ValueError(
            f"an ensemble answers by the mean of its members' predictions on labelled examples, but task "
            f"{task.name!r} is neither a classification nor a regression"
        )
    return task


@torch.no_grad()
def predictions(task: SupervisedTask, params: Tensor, inputs: Tensor) -> Tensor:
    """Class probabilities of classifiers, numbers of regressions: networks (B, P), raw, to (B, ..., N), CPU float32."""
    networks, _ = task.evaluation_chunk(len(inputs))
    parts = params.float().split(networks)
    outputs = torch.cat([task.forward(task.layout.unflatten(part), inputs.to(part.device)) for part in parts]).cpu()
    return outputs.softmax(dim=1) if isinstance(task, ClassificationTask) else outputs


@torch.no_grad()
def mean_predictions(task: SupervisedTask, params: Tensor, inputs: Tensor) -> Tensor:
    """What networks (B, P), raw, predict on average for inputs (N, ...): (..., N), CPU; a part of both at a time."""
    parts = []
    for some in inputs.split(INPUTS_AT_ONCE):
        sums = [predictions(task, networks, some).sum(dim=0) for networks in params.split(NETWORKS_AT_ONCE)]
        parts.append(torch.stack(sums).sum(dim=0) / len(params))
    return torch.cat(parts, dim=-1)


def function_metrics(task: SupervisedTask, params: Tensor, split: Split = "test") -> dict[str, Tensor]:
    """Of networks (B, P), raw: `ece` of each classifier, (B,), and how much two of them disagree, (1,); CPU."""
    answers = predictions(task, params, task.examples(split).inputs)  # (B, ..., N)
    measured = {} if len(params) < 2 else {"disagreement": disagreement(task, answers[None])}
    if isinstance(task, ClassificationTask):
        measured["ece"] = calibration_error(answers, task.splits[split].labels.cpu())
    return measured


def calibration_error(probabilities: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> Tensor:
    """Expected calibration error in percent (Guo et al. 2017, eq. 3): probabilities (B, C, N), labels (N,) to (B,).

    Mean over `num_bins` equal bins of confidence, weighted by their examples, of |accuracy - mean confidence|.
    """
    confidence, answers = probabilities.double().max(dim=1)  # (B, N)
    right = (answers == labels).double()
    bins = (confidence * num_bins).long().clamp(max=num_bins - 1)
    gap = torch.zeros(len(confidence), num_bins, dtype=torch.float64).scatter_add_(1, bins, right - confidence)
    return 100 * gap.abs().sum(dim=1) / confidence.shape[1]


def ensemble_metrics(task: SupervisedTask, members: Tensor, split: Split = "test") -> dict[str, Tensor]:
    """Metrics of ensembles: predictions of members (E, K, ..., N) on a split to `{metric: (E,)}`, CPU.

    Beside the task's own there is `ece`, the calibration error of classifiers, or `coverage`, the share of labels of
    a regression between its members' lowest and highest prediction; both in percent.
    """
    labels = task.splits[split].labels.cpu()
    mean = members.mean(dim=1)  # (E, ..., N)
    if isinstance(task, ClassificationTask):
        measured = task.measure(mean.clamp(min=1e-12).log(), labels)
        return {**measured, "ece": calibration_error(mean, labels)}
    wanted = labels.movedim(0, -1).reshape(members.shape[2:])
    inside = (wanted >= members.amin(dim=1)) & (wanted <= members.amax(dim=1))
    return {**task.measure(mean, labels), "coverage": 100 * inside.flatten(1).double().mean(dim=1)}


def disagreement(task: SupervisedTask, members: Tensor) -> Tensor:
    """How much members (E, K, ..., N) differ: (E,).

    Of classifiers: share of examples, in percent, on which two members answer differently, mean over all pairs. Of
    regressions: root of the mean variance of the predictions, in the unit of the labels.
    """
    if not isinstance(task, ClassificationTask):
        return members.double().var(dim=1, unbiased=True).flatten(1).mean(dim=1).sqrt()
    num = members.shape[1]
    votes = torch.nn.functional.one_hot(members.argmax(dim=2), members.shape[2]).sum(dim=1).double()  # (E, N, C)
    agreeing = (votes * (votes - 1)).sum(dim=2) / (num * (num - 1))  # (E, N)
    return 100 * (1 - agreeing).mean(dim=1)
