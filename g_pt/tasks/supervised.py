"""Supervised tasks: labelled examples in three splits, and networks of any architecture trained on them.

B = networks, P = parameters per network, N = examples.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from g_pt.permutations import PermutationSpec
from g_pt.runtime.seeds import seeded_global_generator
from g_pt.tasks.base import Split, TrainableTask, check_split
from g_pt.tasks.examples import LabelledExamples
from g_pt.tasks.templates import StackedModule, fresh_params, running_statistics, trained_names

# Activations of this many floats at once keep the working set of an evaluation in cache.
EVALUATION_FLOATS = 1 << 19
MAX_FLOATS = 1 << 25  # 128 MiB
RECALIBRATION_EXAMPLES = 1024


class SupervisedTask(TrainableTask):
    """Networks trained on labelled examples; everything but `name`, `network()` and `splits` has a default.

    Derive from ClassificationTask or RegressionTask, which add the loss and the metrics.

    The defaults serve any `nn.Module` that `torch.vmap` can run. Its floating-point buffers, such as the running
    statistics of BatchNorm, are part of the parameters: training uses and updates them as PyTorch does, evaluation
    reads them, `recalibrate` estimates them anew. Integer buffers are counters or constants and stay the module's own.
    """

    splits: Mapping[Split, LabelledExamples]

    @abstractmethod
    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Training loss of each network: outputs (B, ..., N) and labels (N, ...) to (B,), differentiable."""

    @abstractmethod
    def measure(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Every metric of each network: outputs (B, ..., N) and labels (N, ...) to `{metric: (B,)}`."""

    @property
    def num_examples(self) -> int:  # type: ignore[override]
        """Number of training examples."""
        return len(self.splits["train"])

    @property
    def trained_names(self) -> tuple[str, ...]:
        """The module's parameters, without buffers and without those frozen by `requires_grad=False`."""
        return trained_names(self.template, self.layout)

    @cached_property
    def stacked(self) -> StackedModule:
        """The module that `forward` runs with the tensors of many networks."""
        return StackedModule.of(self.network)

    @property
    def template(self) -> nn.Module:
        """The module of `stacked`: in evaluation mode, except while `training_losses` calls `forward`."""
        return self.stacked.module

    @cached_property
    def input_dtype(self) -> torch.dtype:
        """What the network takes: float32, or int64 where its examples are whole numbers and it looks them up.

        Whole numbers that are none as stored (tokens read from a table) count too.
        """
        return accepted_dtype(self.network, self.splits["train"].inputs[:2].cpu())

    def examples(self, split: Split) -> LabelledExamples:
        """A split as the networks take it: see `input_dtype` and `checked_labels`."""
        given, (known, ready) = self.splits[split], self._ready.get(split, (None, None))
        if known is not given or ready is None:
            labels = self.checked_labels(given.labels, split)
            ready = LabelledExamples(given.inputs.to(self.input_dtype), labels)
            self._ready[split] = given, ready
        return ready

    @cached_property
    def _ready(self) -> dict[str, tuple[LabelledExamples, LabelledExamples]]:
        return {}

    def checked_labels(self, labels: Tensor, split: Split) -> Tensor:
        """Labels as `losses` and `measure` take them, or a ValueError; here all are."""
        return labels

    @cached_property
    def permutations(self) -> PermutationSpec:
        """Derived from the module and verified, on training examples."""
        return PermutationSpec.from_module(self.template, example_input=self.examples("train").inputs[:2])

    def init(self, num_networks: int, generator: torch.Generator) -> Tensor:
        """Parameters (B, P) of modules made one by one by `network()`; the global generator stays as it was."""
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        return fresh_params(self.network, self.layout, num_networks, seed)

    def forward(self, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs of B networks on the same N inputs, as `template` gives them in its present mode.

        A subclass may compute the same faster. Where the module behaves differently in training, it has to follow
        `self.template.training`, and then to update running statistics in `tensors` in place.

        Args:
            tensors: `{name: (B, *shape)}`, raw.
            inputs: (N, ...), shared by all networks.

        Returns:
            (B, ..., N): examples last.

        Raises:
            ValueError: the module does not return one tensor with one row per input.
        """
        inputs = inputs if inputs.dtype == torch.float32 else inputs.to(self.input_dtype)
        outputs = self.stacked(tensors, inputs, read=lambda given: checked_outputs(given, len(inputs)))
        return outputs.movedim(1, -1)

    def training_losses(
        self, tensors: Mapping[str, Tensor], examples: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean loss of each network, in training mode, on the given training examples: (B,)."""
        train = self.examples("train").to(examples.device)
        inputs = train.inputs[examples]
        if generator is not None:
            inputs = self.augment(inputs, generator)
        return self.losses(self.training_outputs(tensors, inputs), train.labels[examples])

    def training_outputs(self, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """What `forward` gives in training mode; running statistics in `tensors` are updated in place."""
        self.template.train()
        try:
            return self.forward(tensors, inputs)
        finally:
            self.template.eval()

    def output_distance(self, params: Tensor, others: Tensor, examples: Tensor) -> Tensor:
        """Mean squared difference between the outputs of pairs of networks, differentiable in `params`.

        Args:
            params: (B, P), raw.
            others: (B, P), raw.
            examples: (N,) int64 indices into the training split, on its device: as a rule the CPU.

        Returns:
            (B,).
        """
        inputs = self.examples("train").inputs[examples].to(params.device)
        outputs, wanted = (self.forward(self.layout.unflatten(p), inputs) for p in (params, others))  # (B, ..., N)
        return (outputs - wanted).square().flatten(1).mean(dim=1)

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Change a mini-batch of training inputs at random; here nothing is changed and nothing drawn."""
        return inputs

    @torch.no_grad()
    def evaluate(self, params: Tensor, split: Split = "test") -> dict[str, Tensor]:
        """Every metric of every network on one split: (B, P) raw to `{metric: (B,)}`."""
        check_split(split)
        return self.measure_networks(params, self.examples(split))

    @torch.no_grad()
    def sampled_metric(self, name: str, params: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
        """A metric on training examples drawn anew: (B, P) raw to (B,)."""
        metric = self.metric(name)
        train = self.examples("train")
        examples = torch.randint(len(train), (num_samples,), generator=generator)
        drawn = LabelledExamples(train.inputs[examples], train.labels[examples])
        return self.measure_networks(self.recalibrate(params), drawn)[metric.name]

    def measure_networks(self, params: Tensor, data: LabelledExamples) -> dict[str, Tensor]:
        """Every metric of every network on some examples: (B, P) raw to `{metric: (B,)}`."""
        self._check_params(params)
        data = data.to(params.device)
        networks, examples = self.evaluation_chunk(len(data))
        measured = []
        for part in params.float().split(networks):
            tensors = self.layout.unflatten(part)
            outputs = [self.forward(tensors, some) for some in data.inputs.split(examples)]
            measured.append(self.measure(torch.cat(outputs, dim=-1), data.labels))
        return {name: torch.cat([part[name] for part in measured]) for name in self.metrics}

    @torch.no_grad()
    def recalibrate(self, params: Tensor) -> Tensor:
        """Write the statistics of training examples into the running mean and variance of every BatchNorm: (B, P).

        At most 1,024 examples, evenly spaced over the training split, pass each network as one batch. Networks take
        turns, so that this works for those that `torch.vmap` cannot run too.
        """
        statistics = running_statistics(self.template)
        if not statistics:
            return params
        self._check_params(params)
        train = self.examples("train").to(params.device)
        num = min(len(train), RECALIBRATION_EXAMPLES)
        inputs = train.inputs[torch.linspace(0, len(train) - 1, num).long().to(params.device)]
        module, rows = self.template.to(inputs.device), []
        counters = self.stacked.counters()
        for row in params:
            tensors = {name: tensor.float().clone() for name, tensor in self.layout.unflatten(row).items()}
            for name in statistics:
                tensors[name].zero_()  # spoilt values must not get into the average, not even times 0
            with gathering_statistics(module), self.stacked.precautions():
                self.stacked.call(tensors, counters, inputs)
            rows.append(self.layout.flatten(tensors).to(params.dtype))
        return torch.stack(rows)

    def _check_params(self, params: Tensor) -> None:
        if params.dim() != 2 or params.shape[1] != self.layout.num_params:
            raise ValueError(f"task {self.name!r} takes (batch, {self.layout.num_params}), got {tuple(params.shape)}")

    def evaluation_chunk(self, num_examples: int) -> tuple[int, int]:
        """How many networks, and how many of a split's examples, go through one call of `forward` in an evaluation.

        By default as many networks as keep the largest activation in cache, on all examples that fit in memory.
        """
        size = self._floats_per_example
        return max(1, EVALUATION_FLOATS // (num_examples * size)), min(num_examples, max(1, MAX_FLOATS // size))

    @cached_property
    def _floats_per_example(self) -> int:
        return largest_activation(StackedModule.of(self.network), self.examples("test").inputs[:1].cpu())


def checked_outputs(outputs: Any, num_examples: int) -> Tensor:
    """Outputs of a network, or a ValueError: one tensor with one row per example."""
    if not isinstance(outputs, Tensor):
        raise ValueError(f"network() must return one tensor (examples, ...), got {type(outputs).__name__}")
    if outputs.dim() < 1 or len(outputs) != num_examples:
        raise ValueError(
            f"network() must return one row per example, got {tuple(outputs.shape)} for {num_examples} examples"
        )
    return outputs


def accepted_dtype(network: Callable[[], nn.Module], examples: Tensor) -> torch.dtype:
    """The dtype in which a network takes examples (N, ...): as they are, or as whole numbers where it must."""
    natural = torch.float32 if examples.is_floating_point() else torch.int64
    other = torch.int64 if natural is torch.float32 else torch.float32
    if other is torch.int64 and not bool((examples == examples.round()).all()):
        return natural
    for dtype in (natural, other):
        stacked = StackedModule.of(network)
        try:
            with torch.no_grad(), seeded_global_generator(0), stacked.precautions():
                stacked.module(examples.to(dtype))
        except Exception:  # whatever the network does with what it cannot take
            continue
        return dtype
    return natural  # the error in the network's own words comes from its first call


@contextmanager
def gathering_statistics(module: nn.Module) -> Iterator[None]:
    """Let the normalisation layers of a module in evaluation mode keep the statistics of the next batch."""
    layers = [m for m in module.modules() if isinstance(m, _NormBase) and m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.train()
            layer.momentum = 1.0
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.eval()
            layer.momentum = momentum


@torch.no_grad()
def largest_activation(stacked: StackedModule, example: Tensor) -> int:
    """Numbers in the largest output of any layer, for one example (1, ...)."""
    sizes = [1]

    def note(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        parts = output if isinstance(output, tuple) else (output,)  # recurrent layers return their states too
        sizes.extend(part.numel() for part in parts if isinstance(part, Tensor))

    for layer in stacked.module.modules():
        layer.register_forward_hook(note)
    with stacked.precautions():
        stacked.module(example)
    return max(sizes)
