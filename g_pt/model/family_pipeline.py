"""A pipeline of a family of networks: the same weights for networks of many sizes.

P = parameters per network.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from g_pt.model.pipeline_inputs import Starts
from g_pt.networks.parameters import ParameterLayout
from g_pt.networks.training_facts import TrainingFacts, size_name
from g_pt.tasks import get_family, is_family, is_registered, registered_task
from g_pt.tasks.base import Task
from g_pt.tasks.family import TaskFamily


class SizeRangeWarning(UserWarning):
    """A network is smaller, larger or deeper than those that the model was trained on."""


class FamilyPipeline(DiffusionPipeline):
    """What `ParameterUpdatePipeline` knows of its networks, and has for those of other sizes."""

    config: Any
    transformer: Any
    normalizer: Any
    scheduler: Any

    @property
    def facts(self) -> TrainingFacts:
        """What is known of the training."""
        return TrainingFacts.from_json(self.config.training)

    @property
    def layout(self) -> ParameterLayout:
        """Tensors of the networks that this pipeline updates."""
        layout: ParameterLayout = self.transformer.layout
        return layout

    @cached_property
    def family(self) -> TaskFamily:
        """The tasks of all sizes that this pipeline serves; the task itself is that of one of them.

        Raises:
            ValueError: the pipeline is of networks of one size, or its task is not registered.
        """
        if not is_family(self.config.task):
            raise ValueError(
                f"this pipeline is of networks of one size ({self.layout.describe()}), task {self.config.task!r}"
            )
        name = self.config.task
        if not is_registered(name):
            registered_task(name.partition("[")[0])  # says what is missing
        return get_family(name)

    def member(self, network: int | Sequence[int] | nn.Module | Mapping[str, Tensor]) -> Self:
        """The pipeline of networks of one size, with the same weights; saved, it is a model of that size.

        Args:
            network: the widths of its hidden layers, or such a network, or its state dict.

        Raises:
            ValueError: the pipeline or the network is of no family, or of another.

        Warns:
            SizeRangeWarning: the training had no networks of such widths, or with so many layers.
        """
        family, facts = self.family, self.facts
        if isinstance(network, nn.Module | Mapping):
            hidden = family.hidden_of(network)
        else:
            hidden = (network,) if isinstance(network, int) else tuple(network)
        if facts.sizes:
            check_size(hidden, facts)
        task = family.member(hidden)
        if task.layout == self.layout:
            return self
        transformer = self.transformer.member(task.layout, family.permutations(hidden))
        make: Any = type(self)
        other: Self = make(
            transformer,
            self.normalizer.member(transformer.tokens.plan),
            self.scheduler,
            task=task.name,
            num_inference_steps=self.config.num_inference_steps,
            training=facts.of_size(hidden) if facts.sizes else None,
        )
        other.set_progress_bar_config(**self._progress_bar_config)
        return other

    def serving(self, starts: Starts) -> Self:
        """This pipeline, or that of the size of networks given as a module, a state dict or a list of them."""
        first: Any = starts[0] if isinstance(starts, list | tuple) and starts else starts
        is_network = isinstance(first, nn.Module) or (
            isinstance(first, Mapping) and all(isinstance(value, Tensor) for value in first.values())
        )
        return self.member(first) if is_network and is_family(self.config.task) else self

    def check_task(self, task: Task) -> None:
        """Refuse a task that is not this model's, nor the base of its family.

        Raises:
            ValueError: it has another name.
        """
        if task.name not in (self.config.task, str(self.config.task).partition("[")[0]):
            raise ValueError(f"the model is of task {self.config.task!r}, got task {task.name!r}: name its own")


def check_size(hidden: Sequence[int], facts: TrainingFacts) -> None:
    """Warn of a size that is beyond those of the training."""
    widths = [width for size in facts.sizes for width in size.hidden]
    low, high = facts.width_range or (min(widths), max(widths))
    layers = max(len(size.hidden) for size in facts.sizes)
    if min(hidden) < low or max(hidden) > high or len(hidden) > layers:
        warnings.warn(
            f"networks with hidden layers of {size_name(hidden)} are beyond those of the training, up to "
            f"{layers} layers of {low} to {high}: look at what an update brings",
            SizeRangeWarning,
            stacklevel=3,
        )
