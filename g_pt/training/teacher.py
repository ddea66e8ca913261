"""The population as teacher: networks learn to answer as many harvested runs answer on average.

The mean answer of many runs is better than any of them (Lakshminarayanan et al. 2017), and a network can be taught it
(Hinton et al. 2015). Here the last stage teaches it to whatever the model samples, on training inputs with noise.

One loss serves all prompts. How far a network is from the taught answer is lowered while its validation metric is
above the prompt and raised while it is below, so a prompt that can be had is met, and a lower one asks for the best
that can be taught. Of the validation data each network gets one number; every gradient is that of training inputs.

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
from g_pt.tasks.examples import LabelledExamples
from g_pt.tasks.supervised import SupervisedTask
from g_pt.training.config import AlignmentConfig
from g_pt.training.setup import TEACHER_STREAM

VALIDATION_EXAMPLES = 1024  # on which a step measures


class Teacher:
    """Noised training inputs with the answers to be given there; measures networks by them (`metric_gap.Reached`)."""

    def __init__(
        self,
        task: SupervisedTask,
        metric: Metric,
        normalizer: ParameterNormalizer,
        options: AlignmentConfig,
        runs: Tensor,
        seed: int,
    ) -> None:
        """Let the runs (R, P), raw, of which the settings' number is taken evenly, answer every input once."""
        self.task, self.metric, self.normalizer, self.options = task, metric, normalizer, options
        self.slices = [task.layout.slices[name] for name in task.trained_names]
        runs = runs[torch.linspace(0, len(runs) - 1, min(options.teacher_runs, len(runs))).long()].float()
        self.usual = self.squared_length(runs).mean()
        generator, train = keyed_generator(seed, TEACHER_STREAM), task.examples("train")
        rows = torch.arange(options.teacher_examples) % len(train)
        inputs = task.augment(train.inputs.cpu()[rows], generator)
        if inputs.is_floating_point():  # tokens are looked up
            inputs = inputs + options.teacher_noise * torch.randn(inputs.shape, generator=generator)
        self.inputs = inputs
        self.answers = options.teacher_weight * mean_predictions(task, runs, inputs)  # (..., N)
        if options.teacher_weight < 1:
            self.answers += (1 - options.teacher_weight) * certain_answers(task, train.labels.cpu()[rows], self.answers)

    def squared_gap(self, x_0: Tensor, wanted: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        """Mean squared gap between validation metric and prompt, both transformed, with the taught loss's gradient.

        See `Reached.squared_gap`; `wanted` are the prompts.
        """
        params = self.normalizer.unnormalize(x_0)
        rows = torch.randint(len(self.inputs), (self.options.num_examples,), generator=generator)
        taught = self.taught_loss(params, rows).log()  # (b,)
        gap = self.measure(params.detach(), VALIDATION_EXAMPLES, generator) - wanted
        sign = 1 if self.metric.minimize else -1
        return (gap + sign * (taught - taught.detach())).square().mean()

    @torch.no_grad()
    def measure(self, params: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
        """Transformed validation metric of raw networks (B, P), on examples that are drawn where there are more."""
        data = self.task.examples("validation")
        if len(data) > num_samples:
            rows = torch.randint(len(data), (num_samples,), generator=generator)
            data = LabelledExamples(data.inputs[rows], data.labels[rows])
        return self.metric.embedded(self.task.measure_networks(self.task.recalibrate(params), data)[self.metric.name])

    def taught_loss(self, params: Tensor, rows: Tensor) -> Tensor:
        """Loss against the taught answers of some of the inputs, and the penalty: raw (B, P) to (B,)."""
        device = params.device
        parts = self.task.layout.unflatten(params).items()
        trained = self.task.trained_names
        tensors = {name: (t if name in trained else t.detach()).clone() for name, t in parts}
        outputs = self.task.training_outputs(tensors, self.inputs[rows].to(device))  # (B, ..., N)
        answers = self.answers[..., rows].to(device)
        if isinstance(self.task, ClassificationTask):
            losses = -(answers * outputs.log_softmax(dim=1)).sum(dim=1).flatten(1).mean(dim=1)
        else:
            losses = self.task.losses(outputs, answers.movedim(-1, 0))
        return losses + self.options.teacher_penalty * self.squared_length(params) / self.usual.to(device)

    def squared_length(self, params: Tensor) -> Tensor:
        """Of what is trained: (B, P) to (B,)."""
        return torch.stack([params[:, part].square().sum(dim=1) for part in self.slices]).sum(dim=0)


def teachable(task: Task) -> SupervisedTask:
    """The task, which must be one whose runs can answer together.

    Raises:
        ValueError: it is neither a classification nor a regression, or a classification with a loss of its own.
    """
    if isinstance(task, ClassificationTask) and type(task).losses is not ClassificationTask.losses:
        raise ValueError(f"runs teach by their probabilities, but task {task.name!r} has a loss of its own: set "
                         "alignment.teacher_runs to 0")  # fmt: skip
    return supervised(task)


def certain_answers(task: SupervisedTask, labels: Tensor, like: Tensor) -> Tensor:
    """Labels (N, ...) as answers (..., N) in the shape of others."""
    if isinstance(task, ClassificationTask):
        return F.one_hot(labels, like.shape[0]).movedim(-1, 0).to(like)
    return labels.movedim(0, -1).reshape(like.shape).to(like)
