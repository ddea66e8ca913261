"""A better loss than the runs had, by which the last stage teaches whatever the model samples.

Training inputs get noise and networks a penalty on their length; the answers are the labels and, where asked for, the
mean answer of many runs (Lakshminarayanan et al. 2017), as a single network can be taught it (Hinton et al. 2015).

One loss serves all prompts. Networks say which taught loss goes with a validation metric, harvested ones at first, the
model's own later; below theirs the same line goes on, so that a prompt beyond the runs asks for less than they have,
and one that cannot be had for the best that can. There is no place where two targets meet.

B = networks, R = runs, P = parameters per network, N = examples, C = classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from g_pt.evaluation.ensembles import mean_predictions, supervised
from g_pt.model.normalization import ParameterNormalizer
from g_pt.networks.metrics import Metric
from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks.base import Task
from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.supervised import SupervisedTask
from g_pt.training.config import AlignmentConfig
from g_pt.training.metric_gap import ExactlyReached
from g_pt.training.setup import TEACHER_STREAM


class Teacher(ExactlyReached):
    """Noised training inputs with the answers to be given there; its training metric is the log of the taught loss."""

    def __init__(
        self,
        task: SupervisedTask,
        metric: Metric,
        normalizer: ParameterNormalizer,
        options: AlignmentConfig,
        runs: Tensor,
        seed: int,
    ) -> None:
        """Draw inputs and answers once; of the runs (R, P), raw, the settings' number is taken, evenly spaced."""
        super().__init__(task, metric, normalizer, options)
        self.pupils = task
        self.num_examples = options.teacher_examples
        self.slices = [task.layout.slices[name] for name in task.trained_names]
        runs = runs[torch.linspace(0, len(runs) - 1, min(options.teacher_runs, len(runs))).long()].float()
        self.usual = self.squared_length(runs).mean()
        generator, train = keyed_generator(seed, TEACHER_STREAM), task.examples("train")
        rows = torch.arange(options.teacher_examples) % len(train)
        inputs = task.augment(train.inputs.cpu()[rows], generator)
        if inputs.is_floating_point():  # tokens are looked up
            inputs = inputs + options.teacher_noise * torch.randn(inputs.shape, generator=generator)
        self.inputs = inputs
        answering = runs if options.teacher_weight else runs[:1]  # where labels alone teach, for the shape
        self.answers = options.teacher_weight * mean_predictions(task, answering, inputs)  # (..., N)
        if options.teacher_weight < 1:
            self.answers += (1 - options.teacher_weight) * certain_answers(task, train.labels.cpu()[rows], self.answers)

    def training_metric(self, params: Tensor, examples: Tensor) -> Tensor:
        """Log of the loss against the taught answers to some inputs, and the penalty: raw (B, P) to (B,)."""
        rows, device = examples.cpu(), params.device
        outputs = self.pupils.training_outputs(
            self.trained_tensors(params), self.inputs[rows].to(device)
        )  # (B, ..., N)
        answers = self.answers[..., rows].to(device)
        if isinstance(self.task, ClassificationTask):
            losses = -(answers * outputs.log_softmax(dim=1)).sum(dim=1).flatten(1).mean(dim=1)
        else:
            losses = self.pupils.losses(outputs, answers.movedim(-1, 0))
        penalty = self.options.teacher_penalty * self.squared_length(params) / self.usual.to(device)
        return (losses + penalty).log()

    def squared_length(self, params: Tensor) -> Tensor:
        """Of what is trained: (B, P) to (B,)."""
        return torch.stack([params[:, part].square().sum(dim=1) for part in self.slices]).sum(dim=0)


def teachable(task: Task, metric: str) -> SupervisedTask:
    """The task, which must be one whose runs can answer together.

    Raises:
        ValueError: it is neither a classification nor a regression, or a classification with a loss of its own, or
            more of the metric is better.
    """
    if not task.metric(metric).minimize:
        raise ValueError(f"runs teach less loss, but of {metric!r} more is better: set alignment.teacher_runs to 0")
    if isinstance(task, ClassificationTask) and type(task).losses is not ClassificationTask.losses:
        raise ValueError(f"runs teach by their probabilities, but task {task.name!r} has a loss of its own: set "
                         "alignment.teacher_runs to 0")  # fmt: skip
    return supervised(task)


def certain_answers(task: SupervisedTask, labels: Tensor, like: Tensor) -> Tensor:
    """Labels (N, ...) as answers (..., N) in the shape of others."""
    if isinstance(task, ClassificationTask):
        return F.one_hot(labels, like.shape[0]).movedim(-1, 0).to(like)
    return labels.movedim(0, -1).reshape(like.shape).to(like)
