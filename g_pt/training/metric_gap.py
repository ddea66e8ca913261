"""Metric gap of sampled networks on training data, with a gradient: exact or estimated.

B = networks, P = parameters per network. Metrics are transformed (`Metric.embedded`), parameters normalised unless
they are called raw.
"""

from __future__ import annotations

from typing import Protocol

import torch
from accelerate.utils import gather
from torch import Tensor

from g_pt.evolution.antithetic import perturbations, squared_gap_gradient, with_gradient
from g_pt.model.normalization import ParameterNormalizer
from g_pt.networks.metrics import Metric
from g_pt.tasks.base import Task, TrainableTask
from g_pt.training.config import AlignmentConfig

# Networks measured at once on many examples, where nothing else bounds the memory.
MEASURED_AT_ONCE = 32


class Reached(Protocol):
    """The training metric of sampled networks."""

    def squared_gap(self, x_0: Tensor, wanted: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        """Mean squared gap between reached and wanted metric, differentiable in x_0.

        Args:
            x_0: (b, P), this process's share of the networks.
            wanted: (b,), transformed.
            generator: of the examples or episodes, and of perturbations.
            share: rows of the global batch that these networks are.

        Returns:
            A scalar.
        """
        ...

    def measure(self, params: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
        """Transformed training metric of raw parameters (B, P), without a gradient: (B,)."""
        ...


class ExactlyReached:
    """Through the training loss of a task, which is its metric `loss`."""

    def __init__(
        self, task: TrainableTask, metric: Metric, normalizer: ParameterNormalizer, options: AlignmentConfig
    ) -> None:
        self.task, self.metric, self.normalizer, self.options = task, metric, normalizer, options
        self.num_examples = task.num_examples

    def squared_gap(self, x_0: Tensor, wanted: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        """See `Reached.squared_gap`."""
        examples = torch.randint(self.num_examples, (self.options.num_examples,), generator=generator)
        reached = self.training_metric(self.normalizer.unnormalize(x_0), examples.to(x_0.device))  # (b,)
        return (reached - wanted).square().mean()

    @torch.no_grad()
    def measure(self, params: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
        """See `Reached.measure`; all networks on the same examples, none of them twice."""
        examples = torch.randperm(self.num_examples, generator=generator)[:num_samples].to(params.device)
        return torch.cat([self.training_metric(part, examples) for part in params.split(MEASURED_AT_ONCE)])

    def training_metric(self, params: Tensor, examples: Tensor) -> Tensor:
        """Transformed metric of raw parameters (B, P) on training examples: (B,), with its gradient."""
        return self.metric.embedded(self.task.training_losses(self.trained_tensors(params), examples))

    def trained_tensors(self, params: Tensor) -> dict[str, Tensor]:
        """Tensors of raw parameters (B, P), of which those that training moves let their gradient through."""
        tensors = {}
        for name, tensor in self.task.layout.unflatten(params).items():
            # copies, as running statistics are updated in place; PyTorch gives them no gradient
            part = tensor if name in self.task.trained_names else tensor.detach()
            tensors[name] = part.clone(memory_format=torch.contiguous_format)
        return tensors


class ReachedBySampling:
    """Through `Task.sampled_metric`, without a gradient."""

    def __init__(self, task: Task, metric: Metric, normalizer: ParameterNormalizer, options: AlignmentConfig) -> None:
        self.task, self.metric, self.normalizer, self.options = task, metric, normalizer, options

    @torch.no_grad()
    def measure(self, params: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
        """See `Reached.measure`."""
        return self.metric.embedded(self.task.sampled_metric(self.metric.name, params, num_samples, generator))


class ReachedByOwnGradient(ReachedBySampling):
    """Through `Task.differentiable_metric`, such as the return of a differentiable simulator.

    Gradients of single networks may be longer than those of others by orders of magnitude; each is shortened to the
    median length of the global batch.
    """

    def squared_gap(self, x_0: Tensor, wanted: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        """See `Reached.squared_gap`."""
        sampled = x_0.detach().requires_grad_()
        params, num_samples = self.normalizer.unnormalize(sampled), self.options.num_examples
        reached = self.metric.embedded(
            self.task.differentiable_metric(self.metric.name, params, num_samples, generator)
        )  # (b,)
        (gradient,) = torch.autograd.grad(reached.sum(), sampled)  # (b, P)
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        lengths = gradient.norm(dim=1)  # (b,)
        longest = gather(lengths).median()
        gradient = gradient * (longest / lengths.clamp_min(1e-12)).clamp(max=1.0)[:, None]
        gap = (reached - wanted).detach()
        return with_gradient(gap.square().mean(), x_0, 2 * gap[:, None] * gradient / len(x_0))


class ReachedByEvolution(ReachedBySampling):
    """Through `Task.sampled_metric` of many perturbed networks: any metric that can be measured in training."""

    def squared_gap(self, x_0: Tensor, wanted: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        """See `Reached.squared_gap`."""
        options = self.options
        shape = torch.Size((options.batch_size, x_0.shape[1]))
        noise = perturbations(shape, options.evolution_pairs, generator)[share].to(x_0.device)  # (b, K, P)
        gaps, gradient = squared_gap_gradient(
            lambda params: self.measure(self.normalizer.unnormalize(params), options.num_examples, generator),
            x_0.detach(),
            wanted,
            noise,
            options.evolution_noise,
        )  # (b,), (b, P)
        return with_gradient(gaps.mean(), x_0, gradient / len(x_0))


def make_reached(task: Task, metric: Metric, normalizer: ParameterNormalizer, options: AlignmentConfig) -> Reached:
    """What `options.gradient` asks for; raises what `has_exact_gradient` raises."""
    if not has_exact_gradient(task, metric.name, options.gradient):
        return ReachedByEvolution(task, metric, normalizer, options)
    if metric.name in task.differentiable_metrics:
        return ReachedByOwnGradient(task, metric, normalizer, options)
    assert isinstance(task, TrainableTask)
    return ExactlyReached(task, metric, normalizer, options)


def has_exact_gradient(task: Task, name: str, wanted: str) -> bool:
    """Whether the gradient of a metric, by name, will be exact, and not estimated.

    `wanted` is `AlignmentConfig.gradient`.

    Raises:
        ValueError: the exact gradient is wanted of a metric that has none, or the task cannot measure the metric in
            training.
    """
    differentiable = (isinstance(task, TrainableTask) and name == "loss") or name in task.differentiable_metrics
    if wanted == "exact" and not differentiable:
        raise ValueError(f"metric {name!r} of task {task.name!r} has no exact gradient: set alignment.gradient to auto")
    if wanted != "evolution" and differentiable:
        return True
    if type(task).sampled_metric is Task.sampled_metric:
        raise ValueError(
            f"alignment needs to measure {name!r} in training: define sampled_metric of task {task.name!r}, or set "
            "alignment.num_steps to 0"
        )
    return False
