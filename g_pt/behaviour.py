"""How differently networks behave: the distance between their outputs instead of between their parameters.

B = networks, P = parameters per network, N = examples.
"""

from __future__ import annotations

from torch import Tensor

from g_pt.tasks.supervised import SupervisedTask


def output_distance(task: SupervisedTask, params: Tensor, others: Tensor, examples: Tensor) -> Tensor:
    """Mean squared difference between the outputs of pairs of networks, differentiable in `params`.

    Args:
        task: computes the outputs.
        params: (B, P), raw.
        others: (B, P), raw.
        examples: (N,) int64 indices into the training split, on its device: as a rule the CPU.

    Returns:
        (B,).
    """
    inputs = task.splits["train"].inputs[examples].to(params.device)
    outputs, wanted = (task.forward(task.layout.unflatten(p), inputs) for p in (params, others))  # (B, ..., N)
    return (outputs - wanted).square().flatten(1).mean(dim=1)
