"""Training pairs: an earlier and a later checkpoint of one run.

B = pairs in a batch, P = parameters per network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec


@dataclass(frozen=True)
class CheckpointPairs:
    """Pairs of raw parameters (B, P) and raw metrics (B,)."""

    starting_params: Tensor
    future_params: Tensor
    starting_metric: Tensor
    future_metric: Tensor

    @classmethod
    def from_stacked(cls, params: Tensor, metric: np.ndarray[Any, Any]) -> CheckpointPairs:
        """Starts before targets: params (2B, P), metric (2, B)."""
        start, future = params.chunk(2)
        return cls(start, future, torch.from_numpy(metric[0]), torch.from_numpy(metric[1]))

    def __len__(self) -> int:
        return len(self.starting_params)

    def permuted(
        self, layout: ParameterLayout, spec: PermutationSpec, permutations: Mapping[str, Tensor]
    ) -> CheckpointPairs:
        """Each pair in an order of units `{group: (B, units)}`, the same for both of its networks: functions stay."""
        index = spec.index(layout, permutations).expand(len(self), -1)  # (B, P); one row where no unit can move
        index = index.to(self.starting_params.device)
        start, future = (params.gather(1, index) for params in (self.starting_params, self.future_params))
        return CheckpointPairs(start, future, self.starting_metric, self.future_metric)

    def to(self, device: torch.device) -> CheckpointPairs:
        """The same pairs on a device."""
        moved = (t.to(device, non_blocking=True) for t in vars(self).values())
        return CheckpointPairs(*moved)
