"""Second moments of the inputs of linear layers, which curvature-aware rules ask for.

B = networks, N = examples, n = inputs of a layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from g_pt.tasks.supervised import SupervisedTask

if TYPE_CHECKING:
    from g_pt.tasks.base import Task
    from g_pt.update_rules.base import Tensors


@torch.no_grad()
def layer_inputs(task: Task, params: Tensors, examples: Tensor) -> Tensors:
    """Mean of a a^T for the inputs a of every `nn.Linear`, over training examples and other leading axes.

    Args:
        task: of the networks; its module runs in evaluation mode.
        params: `{name: (B, *shape)}`, raw.
        examples: (N,) indices into the training split.

    Returns:
        `{layer: (B, n, n)}` by the name of the layer in `network()`.

    Raises:
        ValueError: the task is no SupervisedTask, or a layer with parameters is not an `nn.Linear`.
    """
    if not isinstance(task, SupervisedTask):
        raise ValueError(f"layer_inputs needs a SupervisedTask, whose module it can run; task {task.name!r} is none")
    layers = dict(linear_layers(task.template))
    inputs = task.examples("train").inputs[examples]

    def moments(own: dict[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def note(name: str, given: Tensor) -> None:
            rows = given.reshape(-1, given.shape[-1])
            found[name] = rows.T @ rows / len(rows)

        hooks = [
            layer.register_forward_pre_hook(lambda _, given, name=name: note(name, given[0]))
            for name, layer in layers.items()
        ]
        try:
            torch.func.functional_call(task.template, own, (inputs,))
        finally:
            for hook in hooks:
                hook.remove()
        return found

    result: dict[str, Tensor] = torch.vmap(moments)(dict(params))
    return result


def linear_layers(module: nn.Module) -> list[tuple[str, Any]]:
    """Linear layers by name.

    Raises:
        ValueError: another layer has parameters; the message names it.
    """
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear) and next(layer.parameters(recurse=False), None) is not None:
            raise ValueError(f"layer_inputs knows nn.Linear only, but layer {name!r} is {type(layer).__name__}")
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
