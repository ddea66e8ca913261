"""Training runs as tensors: what a model is compared with.

R = runs, N = checkpoints, C = checkpoints of one run, P = parameters per network.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from g_pt.networks.parameters import ParameterLayout


@dataclass(frozen=True)
class RunSet:
    """Runs of one split of the dataset, raw parameters in float32.

    Attributes:
        starts: (R, P) first checkpoints.
        ends: (R, P) last checkpoints.
        end_metric: (R,) the prompted metric of the ends on the validation split.
        checkpoints: (N, P) checkpoints drawn at random from all of these runs.
        checkpoint_metric: (N,) their prompted metric on the validation split.
        trajectories: (T, C, P) all checkpoints of the first few of these runs.
        steps: (C,) int64, the training step of each of those.
        layout: where each tensor lies in the P parameters.
    """

    starts: Tensor
    ends: Tensor
    end_metric: Tensor
    checkpoints: Tensor
    checkpoint_metric: Tensor
    trajectories: Tensor
    steps: Tensor
    layout: ParameterLayout


@dataclass(frozen=True)
class ReferenceRuns:
    """`training`: runs that the model learned from. `held_out`: runs of the test split, made in the same way."""

    training: RunSet
    held_out: RunSet
