"""Which weights of a stage are kept, and whether it goes on: judged by evaluations on held-out validation data.

The first stage is judged by the denoising loss on pairs of the validation runs, the second by the prompt alignment on
fresh inits, measured on the validation split. Test runs and the test split have no part in it.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from g_pt.training.config import ProgressConfig, StageName
from g_pt.training.ema import AveragedWeights

# what a stage is judged by, and the sign that makes smaller better
CRITERIA: dict[StageName, tuple[str, float]] = {"diffusion": ("held_out_loss", 1.0), "alignment": ("alignment", -1.0)}


class WeightChoice:
    """The best evaluation so far, the averaged weights of it, and how many evaluations were no better since.

    All of it is saved with every checkpoint, so that a resumed run chooses and stops as an uninterrupted one.
    """

    def __init__(self, options: ProgressConfig, stage: StageName, averaged: AveragedWeights) -> None:
        self.options, self.averaged = options, averaged
        self.criterion, self.sign = CRITERIA[stage]
        self.best = math.inf  # times the sign
        self.best_step = self.misses = 0
        self.weights: list[Tensor] = []  # of the best evaluation, on the CPU

    @property
    def is_wanted(self) -> bool:
        """Whether evaluations decide anything."""
        return self.options.choose == "best" or self.options.patience > 0

    @property
    def is_over(self) -> bool:
        """Whether as many evaluations as there is patience for, one after the other, were no better."""
        return 0 < self.options.patience <= self.misses

    def consider(self, step: int, measured: dict[str, Any]) -> None:
        """Take in an evaluation of the present averaged weights.

        Raises:
            ValueError: it lacks what the stage is judged by.
        """
        if self.criterion not in measured:
            raise ValueError(f"progress.choose and progress.patience need {self.criterion}: give held-out pairs")
        value = self.sign * measured[self.criterion]
        if not value < self.best:  # NaN is not
            self.misses += 1
            return
        self.best, self.best_step, self.misses = value, step, 0
        if self.options.choose == "best":
            self.weights = [tensor.detach().cpu().clone() for tensor in self.averaged.ema.shadow_params]

    def apply(self) -> None:
        """Replace the averages by those of the best evaluation, where that is wanted and there was one."""
        if self.weights and self.options.choose == "best":
            self.averaged.set_weights(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"best": self.best, "best_step": self.best_step, "misses": self.misses, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; where the best weights are wanted only now, earlier evaluations do not count: theirs are gone."""
        if self.options.choose == "best" and not state["weights"]:
            return
        self.best, self.best_step, self.misses = state["best"], state["best_step"], state["misses"]
        self.weights = state["weights"]
