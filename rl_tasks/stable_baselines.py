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
        ValueError: the model has other layers, widths or activations than the task's policies, sees its observations
            through a features extractor or VecNormalize (only a model that still has its environment tells so), or
            is of another kind or environment.
    """
    check_model(model, task)
    policy = model.policy
    linear = [*(layer for layer in policy.mlp_extractor.policy_net if isinstance(layer, nn.Linear)), policy.action_net]
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


def check_model(model: Any, task: MLPPolicyTask) -> None:
    """Refuse a model whose actions are not those of tanh layers on the environment's own observations."""
    kind, policy = type(model).__name__, model.policy
    if type(policy).__name__ != "ActorCriticPolicy":  # a class derived from it computes something else
        raise ValueError(
            f"the model must be on-policy with an MlpPolicy (PPO, A2C), got {kind} with {type(policy).__name__}"
        )
    if getattr(policy, "use_sde", False) or getattr(policy, "squash_output", False):
        raise ValueError(
            f"{kind} was trained with state-dependent exploration (use_sde) or squashed actions, which policies of "
            f"task {task.name!r} do not have: train it without"
        )
    extractors = {type(getattr(policy, f"{part}features_extractor", None)).__name__ for part in ("", "pi_")}
    if others := extractors - {"FlattenExtractor", "NoneType"}:
        raise ValueError(
            f"the model sees observations through a features extractor, {min(others)}, which policies of task "
            f"{task.name!r} do not have: train it with the default one"
        )
    layers = list(getattr(policy.mlp_extractor, "policy_net", ()))
    kinds = [type(layer).__name__ for layer in layers]
    if kinds != ["Linear", "Tanh"] * (len(layers) // 2) or type(policy.action_net) is not nn.Linear:
        raise ValueError(
            f"policies of task {task.name!r} have tanh between linear layers; the model has "
            f"{sorted({*kinds, type(policy.action_net).__name__})}"
        )
    if (normalizer := model.get_vec_normalize_env()) is not None and normalizer.norm_obs:
        raise ValueError(
            "the model was trained on observations normalised by VecNormalize, which are not those of "
            f"{task.environment_id!r}: train it with norm_obs=False"
        )
    environment = task.make_environment()
    for what in ("observation_space", "action_space"):
        own, wanted = getattr(model, what), getattr(environment, what)
        if own != wanted:
            raise ValueError(
                f"the model was trained on another environment than {task.environment_id!r}: its {what} is {own}, "
                f"not {wanted}"
            )
    environment.close()
