"""Second moments at the layers of many networks: of what goes in, and of the gradients at what comes out.

B = networks, N = examples, n = inputs of a layer (of a convolution, the numbers of one patch, which are unfolded), with
a 1 behind them where the layer has a bias that is trained; m = its outputs. A convolution, or a linear layer on a
sequence, has many positions in an example: a a^T is summed over them and e e^T averaged, as in Grosse and Martens 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.supervised import SupervisedTask
from g_pt.tasks.templates import tensors_put_back

if TYPE_CHECKING:
    from g_pt.tasks.base import Task
    from g_pt.update_rules.base import Tensors

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def known_layers(task: Task) -> dict[str, Any]:
    """Layers of `network()` with trained parameters, by name: linear ones and convolutions.

    Raises:
        ValueError: the task has no module that can be run, or another layer is trained; the message names it.
    """
    if not isinstance(task, SupervisedTask):
        raise ValueError(
            f"moments at layers need a SupervisedTask, whose module can be run, and {task.name!r} is none: take a rule "
            "that needs gradients alone, such as adam, mini-block-fisher or m-fac"
        )
    trained = {
        name: layer
        for name, layer in task.template.named_modules()
        if any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
    }
    for name, layer in trained.items():
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or getattr(layer, "groups", 1) != 1:
            raise ValueError(
                f"moments are known for linear layers and convolutions without groups, but layer {name!r} is {layer}: "
                "keep it as it is by requires_grad=False, or take a rule that needs gradients alone, such as adam, "
                "mini-block-fisher or m-fac"
            )
    return trained


@torch.no_grad()
def input_moments(task: Task, params: Tensors, examples: Tensor) -> Tensors:
    """Mean of a a^T for the inputs a of every layer, of networks in evaluation mode; what raises: see `known_layers`.

    Args:
        task: of the networks.
        params: `{name: (B, *shape)}`, raw.
        examples: (N,) indices into the training split.

    Returns:
        `{layer: (B, n, n)}` by the name of the layer in `network()`; expanded from one matrix where a layer sees the
        same in all networks, as the first one does.
    """
    layers, found = known_layers(task), dict[str, Tensor]()
    assert isinstance(task, SupervisedTask)
    biased = {name for name, layer in layers.items() if layer.bias is not None and layer.bias.requires_grad}

    def note(name: str, given: tuple[Tensor, ...]) -> None:
        rows = input_rows(layers[name], given[0])
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1) if name in biased else rows
        moment = rows.T @ rows / len(examples)
        found[name] = found[name] + moment if name in found else moment  # a layer may be called twice

    with (
        hooked({"": task.template}, lambda module, _: module.register_forward_pre_hook(lambda *_: found.clear())),
        hooked(layers, lambda layer, name: layer.register_forward_pre_hook(lambda _, given: note(name, given))),
    ):
        result = task.stacked(params, inputs_for(task, params, examples), read=lambda _: dict(found))
    return check_called(result, layers)


@torch.no_grad()
def gradient_moments(task: Task, params: Tensors, examples: Tensor, generator: torch.Generator) -> Tensors:
    """Mean of e e^T, e being the gradient of one example's loss at a layer's outputs, for labels that a network draws.

    That is the output's side of the Fisher information, see Martens and Grosse 2015. Labels are drawn where the loss is
    cross-entropy of logits (N, classes), with noise that all networks share; other tasks keep those of the examples
    (the empirical Fisher information). Returns `{layer: (B, m, m)}`; the rest is as for `input_moments`.
    """
    layers = known_layers(task)
    assert isinstance(task, SupervisedTask)
    stacked, inputs, called = task.stacked, inputs_for(task, params, examples), list[str]()
    labels, noise = task.examples("train").labels[examples], None
    if isinstance(task, ClassificationTask) and type(task).losses is ClassificationTask.losses and task.num_classes:
        noise = torch.empty(len(examples), task.num_classes).exponential_(generator=generator).log()

    def outputs_of(own: Tensors, at: Callable[[str, Tensor], Tensor]) -> Tensor:
        with hooked(layers, lambda layer, name: layer.register_forward_hook(lambda *given: at(name, given[2]))):
            return stacked.call(own, stacked.counters(), inputs)

    def moments(own: Tensors) -> Tensors:
        zeros: list[Tensor] = []

        def note(name: str, output: Tensor) -> Tensor:
            called.append(name)
            zeros.append(torch.zeros_like(output))
            return output

        called.clear()
        logits = outputs_of(own, note)
        drawn = labels if noise is None else (logits - noise.to(logits)).argmax(dim=1)  # Gumbel's way

        def loss(probes: list[Tensor]) -> Tensor:
            left = iter(probes)
            outputs = outputs_of(own, lambda _, output: output + next(left))
            return task.losses(outputs.movedim(0, -1)[None], drawn)[0]

        found: Tensors = {}
        for name, grad in zip(called, torch.func.grad(loss)(zeros), strict=True):
            rows = len(examples) * output_rows(layers[name], grad)  # the loss is a mean
            found[name] = found.get(name, 0) + rows.T @ rows / len(rows)
        return found

    with stacked.precautions(), tensors_put_back(stacked.module):
        return check_called(torch.vmap(moments)(dict(params)), layers)


@contextmanager
def hooked(layers: dict[str, Any], hook: Callable[[Any, str], Any]) -> Iterator[None]:
    """Have hooks on layers."""
    handles = [hook(layer, name) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def input_rows(layer: Any, given: Tensor) -> Tensor:
    """Inputs of a layer, one row for each example and position: (rows, n), without the 1 for a bias."""
    if isinstance(layer, nn.Linear):
        return given.reshape(-1, given.shape[-1])
    size = math.prod(layer.weight.shape[1:])
    patches = torch.eye(size, dtype=given.dtype, device=given.device).view(size, *layer.weight.shape[1:])
    # each number of a patch is what a filter of zeros and a one gives: strides and paddings of all kinds are right
    return layer._conv_forward(given, patches, None).movedim(1, -1).reshape(-1, size)


def output_rows(layer: Any, outputs: Tensor) -> Tensor:
    """What has the shape of a layer's outputs, one row for each example and position: (rows, m)."""
    channels_last = outputs if isinstance(layer, nn.Linear) else outputs.movedim(1, -1)
    return channels_last.reshape(-1, channels_last.shape[-1])


def inputs_for(task: SupervisedTask, params: Tensors, examples: Tensor) -> Tensor:
    """Inputs of training examples (N, ...), in the dtype of the networks where they are not whole numbers."""
    inputs = task.examples("train").inputs[examples]
    return inputs.to(next(iter(params.values())).dtype) if inputs.is_floating_point() else inputs


def check_called(found: Tensors, layers: dict[str, Any]) -> Tensors:
    """The moments of all layers, or a ValueError."""
    if missing := sorted(set(layers) - set(found)):
        raise ValueError(f"layer {missing[0]!r} is never called, so that it has no inputs: call it, not its weight")
    return found
