"""Policies that were trained by Stable-Baselines3, as networks of a task.

It is not imported: a model that a program has made or loaded itself is all that is needed. Its files are pickles, which
run code when they are loaded: load none from strangers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rl_tasks.mlp_policy_task import MLPPolicyTask
from rl_tasks.policies import LOG_STD


def policy_params(model: Any, task: MLPPolicyTask) -> Tensor:
    """Parameters (P,), raw, of the policy of an on-policy model (PPO, A2C) with `MlpPolicy` and tanh layers.

    Raises:
        ValueError: the model has other layers, widths or activations than the task's policies.
    """
    policy = model.policy
    hidden = getattr(getattr(policy, "mlp_extractor", None), "policy_net", None)
    if not isinstance(hidden, nn.Sequential) or not isinstance(getattr(policy, "action_net", None), nn.Linear):
        raise ValueError(f"the model must have an MlpPolicy with a linear action_net, got {type(policy).__name__}")
    others = sorted({type(layer).__name__ for layer in hidden} - {"Linear", "Tanh"})
    if others:
        raise ValueError(f"policies of task {task.name!r} have tanh between linear layers; the model has {others}")
    linear = [*(layer for layer in hidden if isinstance(layer, nn.Linear)), policy.action_net]
    tensors = {
        f"fc{i}.{kind}": getattr(layer, kind).detach().float().cpu()
        for i, layer in enumerate(linear, start=1)
        for kind in ("weight", "bias")
    }
    if LOG_STD in task.layout.names:
        tensors[LOG_STD] = getattr(policy, "log_std", torch.empty(0)).detach().float().cpu()
    try:
        task.layout.check(tensors)
    except ValueError as error:
        raise ValueError(
            f"the model's policy does not fit task {task.name!r}: {error}; train it with net_arch "
            f"{list(task.widths[1:-1])}"
        ) from error
    return task.layout.flatten(tensors)
