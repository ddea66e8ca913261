"""A family of networks with metrics: the interface between the method and the world.

B = networks in a batch, P = parameters per network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from g_pt.networks.metrics import Metric
from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec
from g_pt.runtime.library_messages import hide_library_messages
from g_pt.runtime.seeds import seeded_global_generator
from g_pt.tasks.templates import plain_module

hide_library_messages()

Split = Literal["train", "validation", "test"]
CONSTANCY_EXAMPLES = 16  # training examples on which it is seen which buffers move
SPLITS: tuple[Split, ...] = get_args(Split)
Settings = TypeVar("Settings")


class Task(ABC):
    """Networks of one architecture, how they start, and how good they are.

    Metrics of the validation split condition a model; metrics of the test split are reported.
    """

    name: str
    metrics: Mapping[str, Metric]
    endless_data = False
    """Whether training draws from the same endless source as the splits, so that no metric is better in training."""
    harvest_defaults: Mapping[str, Any] = {}
    """Settings of `HarvestConfig`, by name, that the commands take for this task where nobody says otherwise."""
    differentiable_metrics: Collection[str] = ()
    """Names of the metrics that `differentiable_metric` knows."""

    @abstractmethod
    def network(self) -> nn.Module:
        """A fresh module; its state-dict names are those of every file we write."""

    @property
    @abstractmethod
    def permutations(self) -> PermutationSpec:
        """Which units of `network()` can be reordered without changing its function."""

    @abstractmethod
    def init(self, num_networks: int, generator: torch.Generator) -> Tensor:
        """Parameters of freshly initialised networks, (B, P), raw, as the runs start with."""

    @abstractmethod
    def evaluate(self, params: Tensor, split: Split = "test") -> dict[str, Tensor]:
        """Every metric of every network on one split: (B, P) raw to `{metric: (B,)}`."""

    def sampled_metric(self, name: str, params: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
        """A metric as training may see it: on data drawn anew, the same for all networks, without a gradient.

        Args:
            name: of the metric.
            params: (B, P), raw.
            num_samples: training examples, or episodes, to draw.
            generator: of the draw.

        Returns:
            (B,), raw.

        Raises:
            ValueError: the task has no such estimate.
        """
        raise ValueError(f"task {self.name!r} has no sampled_metric, which training needs to see {name!r}: define it")

    def differentiable_metric(self, name: str, params: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
        """As `sampled_metric`, with a gradient with respect to `params`, which need not be that of every single value.

        Supervised losses have `TrainableTask.training_losses` for it.

        Raises:
            ValueError: the task has no such gradient.
        """
        raise ValueError(f"metric {name!r} of task {self.name!r} has no gradient of its own")

    def recalibrate(self, params: Tensor) -> Tensor:
        """Estimate anew what an update cannot hit exactly, such as BatchNorm's running statistics: (B, P) to (B, P).

        Called on every sampled update. Networks without such statistics come back as they are.
        """
        return params

    def measurement(self, params: Tensor, split: Split = "test") -> dict[str, Any]:
        """How the metrics of a split are measured, as JSON for a report; nothing where it goes without saying.

        Tasks whose metrics are means over episodes tell their number and the standard error for networks (B, P).
        """
        return {}

    @property
    def constant_names(self) -> tuple[str, ...]:
        """The tensors that training leaves as they are, and so does an update."""
        return ()

    @cached_property
    def layout(self) -> ParameterLayout:
        """The order of `network()`'s tensors in the flat vector."""
        with seeded_global_generator(0):  # looking at a network must not move the global generator
            return ParameterLayout.from_module(plain_module(self.network()))

    def metric(self, name: str) -> Metric:
        """Look a metric up by name; the error lists what exists."""
        if name not in self.metrics:
            raise ValueError(f"task {self.name!r} has no metric {name!r}; it has {sorted(self.metrics)}")
        return self.metrics[name]


class TrainableTask(Task):
    """A task whose networks can be trained by gradient descent, many at once."""

    num_examples: int  # in the training split

    @property
    def trained_names(self) -> tuple[str, ...]:
        """The tensors that an optimizer moves; `training_losses` may update the others, buffers, in place."""
        return self.layout.names

    @abstractmethod
    def training_losses(
        self, tensors: Mapping[str, Tensor], examples: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean training loss of each network on a shared mini-batch, differentiable in `tensors`.

        Args:
            tensors: `{name: (B, *shape)}`, raw, as `ParameterLayout.unflatten` gives them. Tensors, not vectors: a
                harvest keeps each contiguous, which saves copies and a concatenation of gradients at every step.
                Running statistics among them are updated in place. What is random in the networks, such as dropout,
                draws from the global generator.
            examples: (batch,) int64 indices into the training split, the same for all networks.
            generator: of random changes of the examples, such as mirrored images, where the task makes any; None for
                the examples as they are. A harvest gives one, and can be repeated byte for byte.

        Returns:
            (B,) losses.
        """

    @cached_property
    def constant_names(self) -> tuple[str, ...]:
        """Frozen parameters and constant buffers: not trained, and as before after a step's `training_losses`."""
        others = [name for name in self.layout.names if name not in self.trained_names]
        if not others:
            return ()
        params = self.init(2, torch.Generator().manual_seed(0))
        tensors = {name: tensor.clone() for name, tensor in self.layout.unflatten(params).items()}
        before = {name: tensors[name].clone() for name in others}
        with torch.no_grad(), seeded_global_generator(0):
            self.training_losses(tensors, torch.arange(min(self.num_examples, CONSTANCY_EXAMPLES)))
        return tuple(name for name in others if torch.equal(tensors[name], before[name]))

    @property
    def data_subset(self) -> str | None:
        """Name of the part of the data where it is not all of it; every harvest records it."""
        return None


@dataclass(frozen=True)
class TrainedPopulation:
    """Checkpoints of R runs that were trained at once.

    Attributes:
        params: (R, C, P) in the dtype of the dataset.
        metrics: `{metric: (R, C)}` on the validation split, measured on the parameters as they are stored.
        records: what is known about each of the R runs, such as its learning rate; JSON.
        lost: `{number of the run: reason}` of runs that came to nothing; they are not kept.
    """

    params: Tensor
    metrics: dict[str, Tensor]
    records: list[dict[str, Any]]
    lost: Mapping[int, str] = field(default_factory=dict)


class PopulationTask(Task, Generic[Settings]):
    """A task that trains its own networks, many at once, where no loss on examples says how: policies, so far.

    `Settings` are those of its training, such as PPO's.
    """

    @abstractmethod
    def train_population(
        self,
        num_runs: int,
        steps: Sequence[int],
        settings: Settings,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float16,
        progress: Callable[[int], object] | None = None,
    ) -> TrainedPopulation:
        """Train networks at once and keep checkpoints of each.

        Args:
            num_runs: R.
            steps: after which iterations a checkpoint is kept, rising from 0 (before training); the last one is the
                length of the runs.
            settings: of the training.
            generator: of everything random: the same state gives the same bytes.
            dtype: of the checkpoints.
            progress: called after every iteration with the number of networks.

        Raises:
            ValueError: the settings do not fit the task.
        """


def check_split(split: str) -> None:
    """Refuse a split that does not exist."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {list(SPLITS)}, got {split!r}")
