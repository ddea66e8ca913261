"""A module of the user's own, to and from the flat vector: tensors by name, in the module's dtypes and places.

P = parameters per network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from g_pt.networks.parameters import ParameterLayout


def module_params(module: nn.Module, layout: ParameterLayout) -> Tensor:
    """Flatten a module's parameters and floating-point buffers: (P,) float32, a copy, on the module's device.

    Raises:
        ValueError: the module's tensors are not those of the layout; the message names the first that differs.
    """
    tensors = module.state_dict()
    check_module(module, layout)
    return layout.flatten({name: tensors[name].float() for name in layout.names}).clone()


@torch.no_grad()
def write_module(module: nn.Module, params: Tensor, layout: ParameterLayout) -> None:
    """Copy raw parameters (P,) into a module in place; its dtypes, device, mode and `requires_grad` stay.

    Raises:
        ValueError: the module's tensors are not those of the layout; the message names the first that differs.
    """
    check_module(module, layout)
    own = module.state_dict(keep_vars=True)  # the tensors themselves, not copies
    for name, tensor in layout.unflatten(params).items():
        own[name].copy_(tensor)


def check_module(module: nn.Module, layout: ParameterLayout) -> None:
    """Refuse a module of another architecture.

    Raises:
        ValueError: a tensor is missing, of another shape, or not in the layout.
    """
    try:
        layout.check(module.state_dict())
    except ValueError as error:
        raise ValueError(f"{type(module).__name__} is not a network of this model: {error}") from error
