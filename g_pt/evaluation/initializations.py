"""Ways to initialise networks that differ from the one a G.pt was trained on.

B = networks, P = parameters per network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import init

from g_pt.tasks.base import Task

# fills one weight in place
Fill = Callable[[Tensor, torch.Generator], object]
Initialization = Callable[[Task, int, torch.Generator], Tensor]


def layers(task: Task) -> dict[str, list[str]]:
    """The layers that can be drawn anew: `{layer: names of its tensors}`, each with a weight of two axes or more.

    Normalisation layers, whose tensors are vectors, are no such layer.
    """
    names, shapes = task.layout.names, task.layout.shapes
    found: dict[str, list[str]] = {}
    for name, shape in zip(names, shapes, strict=True):
        if len(shape) >= 2:
            found.setdefault(name.rpartition(".")[0], []).append(name)
    for name, shape in zip(names, shapes, strict=True):
        prefix, _, kind = name.rpartition(".")
        if len(shape) == 1 and kind.startswith("bias") and prefix in found:
            found[prefix].append(name)
    return found


def filled(fill: Fill, task: Task, num_networks: int, generator: torch.Generator) -> Tensor:
    """The task's own initialisation with every weight filled anew and every bias of the same layers 0: (B, P)."""
    tensors = {n: t.clone() for n, t in task.layout.unflatten(task.init(num_networks, generator)).items()}
    for name in (name for names in layers(task).values() for name in names):
        for tensor in tensors[name]:  # torch.nn.init knows one network at a time
            if tensor.dim() >= 2:
                fill(tensor, generator)
            else:
                tensor.zero_()
    return task.layout.flatten(tensors)


def scaled(factor: float, task: Task, num_networks: int, generator: torch.Generator) -> Tensor:
    """The task's own initialisation, weights and biases times a factor: (B, P)."""
    tensors = {n: t.clone() for n, t in task.layout.unflatten(task.init(num_networks, generator)).items()}
    for name in (name for names in layers(task).values() for name in names):
        tensors[name] *= factor
    return task.layout.flatten(tensors)


def kaiming(uniform: bool, mode: str) -> Initialization:
    """He's initialisation for ReLU."""
    fill = init.kaiming_uniform_ if uniform else init.kaiming_normal_
    return partial(filled, lambda t, g: fill(t, mode=mode, nonlinearity="relu", generator=g))  # type: ignore[arg-type]


# those of Peebles et al. 2022, figure 6, and other scales of the task's own
INITIALIZATIONS: dict[str, Initialization] = {
    "the task's own": partial(scaled, 1.0),
    "Xavier normal": partial(filled, lambda t, g: init.xavier_normal_(t, generator=g)),
    "Xavier uniform": partial(filled, lambda t, g: init.xavier_uniform_(t, generator=g)),
    "Kaiming normal, fan-in": kaiming(uniform=False, mode="fan_in"),
    "Kaiming normal, fan-out": kaiming(uniform=False, mode="fan_out"),
    "Kaiming uniform, fan-in": kaiming(uniform=True, mode="fan_in"),
    "Kaiming uniform, fan-out": kaiming(uniform=True, mode="fan_out"),
    "orthogonal": partial(filled, lambda t, g: init.orthogonal_(t, generator=g)),
    "own, times 0.25": partial(scaled, 0.25),
    "own, times 0.5": partial(scaled, 0.5),
    "own, times 2": partial(scaled, 2.0),
    "own, times 4": partial(scaled, 4.0),
}


def reset_layer(task: Task, params: Tensor, layer: str, generator: torch.Generator) -> Tensor:
    """Networks (B, P), raw, with one layer as the task initialises it.

    Raises:
        ValueError: there is no such layer.
    """
    known = layers(task)
    if layer not in known:
        raise ValueError(f"task {task.name!r} has no layer {layer!r}; it has {list(known)}")
    fresh = task.layout.unflatten(task.init(len(params), generator))
    tensors = task.layout.unflatten(params) | {name: fresh[name] for name in known[layer]}
    return task.layout.flatten(tensors)
