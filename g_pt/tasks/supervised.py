"""Supervised tasks: labelled examples in three splits, and networks of any architecture trained on them.

B = networks, P = parameters per network, N = examples.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping
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
        trained = {name for name, parameter in self.template.named_parameters() if parameter.requires_grad}
        return tuple(name for name in self.layout.names if name in trained)

    @cached_property
    def template(self) -> nn.Module:
        """The module that `forward` runs with the tensors of many networks; its own values are never read.

        In evaluation mode, except while `training_losses` calls `forward`.
        """
        with seeded_global_generator(0):
            module = self.network().eval()
        check_stackable(module)
        return module

    @cached_property
    def permutations(self) -> PermutationSpec:
        """Derived from the module and verified, on training examples."""
        return PermutationSpec.from_module(self.template, example_input=self.splits["train"].inputs[:2])

    def init(self, num_networks: int, generator: torch.Generator) -> Tensor:
        """Parameters (B, P) of modules made one by one by `network()`; the global generator stays as it was."""
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        layout = self.layout
        with seeded_global_generator(seed):
            return torch.stack([layout.flatten(self.network().state_dict()) for _ in range(num_networks)]).float()

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
        module = self.template.to(inputs.device)
        others = self._other_tensors()

        def run(own: dict[str, Tensor]) -> Tensor:
            outputs = torch.func.functional_call(module, {**own, **others}, (inputs,))
            check_outputs(outputs, len(inputs))
            return outputs

        try:  # dropout draws from the global generator, for each network on its own
            outputs = torch.vmap(run, randomness="different" if module.training else "error")(dict(tensors))
        except RuntimeError as error:
            error.add_note(f"{type(self).__name__}: torch.vmap cannot run this network; override `forward` with a loop")
            raise
        return outputs.movedim(1, -1)

    def training_losses(
        self, tensors: Mapping[str, Tensor], examples: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean loss of each network, in training mode, on the given training examples: (B,)."""
        train = self.splits["train"].to(examples.device)
        inputs = train.inputs[examples]
        if generator is not None:
            inputs = self.augment(inputs, generator)
        self.template.train()
        try:
            outputs = self.forward(tensors, inputs)
        finally:
            self.template.eval()
        return self.losses(outputs, train.labels[examples])

    def output_distance(self, params: Tensor, others: Tensor, examples: Tensor) -> Tensor:
        """Mean squared difference between the outputs of pairs of networks, differentiable in `params`.

        Args:
            params: (B, P), raw.
            others: (B, P), raw.
            examples: (N,) int64 indices into the training split, on its device: as a rule the CPU.

        Returns:
            (B,).
        """
        inputs = self.splits["train"].inputs[examples].to(params.device)
        outputs, wanted = (self.forward(self.layout.unflatten(p), inputs) for p in (params, others))  # (B, ..., N)
        return (outputs - wanted).square().flatten(1).mean(dim=1)

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Change a mini-batch of training inputs at random; here nothing is changed and nothing drawn."""
        return inputs

    @torch.no_grad()
    def evaluate(self, params: Tensor, split: Split = "test") -> dict[str, Tensor]:
        """Every metric of every network on one split: (B, P) raw to `{metric: (B,)}`."""
        check_split(split)
        return self.measure_networks(params, self.splits[split])

    @torch.no_grad()
    def sampled_metric(self, name: str, params: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
        """A metric on training examples drawn anew: (B, P) raw to (B,)."""
        metric = self.metric(name)
        train = self.splits["train"]
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
        train = self.splits["train"].to(params.device)
        num = min(len(train), RECALIBRATION_EXAMPLES)
        inputs = train.inputs[torch.linspace(0, len(train) - 1, num).long().to(params.device)]
        module, rows = self.template.to(inputs.device), []
        others = self._other_tensors()
        for row in params:
            tensors = {name: tensor.float().clone() for name, tensor in self.layout.unflatten(row).items()}
            for name in statistics:
                tensors[name].zero_()  # spoilt values must not get into the average, not even times 0
            with gathering_statistics(module):
                torch.func.functional_call(module, {**tensors, **others}, (inputs,))
            rows.append(self.layout.flatten(tensors).to(params.dtype))
        return torch.stack(rows)

    def _other_tensors(self) -> dict[str, Tensor]:
        """Copies of what is in the module and not in the layout: counters move as a network runs."""
        state = self.template.state_dict()
        return {name: value.clone() for name, value in state.items() if name not in self.layout.names}

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
        example = self.splits["test"].inputs[:1].cpu()
        return largest_activation(copy.deepcopy(self.template).cpu(), example)


def check_outputs(outputs: Any, num_examples: int) -> None:
    """Refuse what is not one tensor with one row per example."""
    if not isinstance(outputs, Tensor):
        raise ValueError(f"network() must return one tensor (examples, ...), got {type(outputs).__name__}")
    if outputs.dim() < 1 or len(outputs) != num_examples:
        raise ValueError(
            f"network() must return one row per example, got {tuple(outputs.shape)} for {num_examples} examples"
        )


def check_stackable(module: nn.Module) -> None:
    """Refuse modules whose training needs more than their floating-point tensors."""
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    if shared := sorted(names - {name for name, _ in module.named_parameters()}):
        raise ValueError(
            f"every name must have a parameter of its own, but {shared} are shared with others: updates would part them"
        )
    for name, layer in module.named_modules():
        if isinstance(layer, _NormBase) and layer.track_running_stats and layer.momentum is None:
            raise ValueError(
                f"layer {name!r} averages over all batches (momentum=None); give it a momentum, such as 0.1"
            )


def running_statistics(module: nn.Module) -> list[str]:
    """State-dict names of the running means and variances."""
    return [
        f"{prefix}.{name}".lstrip(".")
        for prefix, layer in module.named_modules()
        if isinstance(layer, _NormBase) and layer.track_running_stats
        for name in ("running_mean", "running_var")
    ]


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
def largest_activation(module: nn.Module, example: Tensor) -> int:
    """Numbers in the largest output of any layer, for one example (1, ...)."""
    sizes = [1]

    def note(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    for layer in module.modules():
        layer.register_forward_hook(note)
    module(example)
    return max(sizes)
