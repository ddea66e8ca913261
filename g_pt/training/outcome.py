"""What a training has reached, from its log: how networks that no run started from follow the prompts."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Literal

from g_pt.training.config import StageName
from g_pt.training.early_stopping import CRITERIA
from g_pt.training.log import LOG_FILE

# Below this share of the width of the prompts, what they reach is all but one and the same metric.
UNHEEDED = 0.2


class UnheededPromptsWarning(UserWarning):
    """Networks reach nearly the same metric whatever was prompted."""


def last_evaluation(folder: Path, stage: StageName, choose: Literal["last", "best"]) -> dict[str, Any] | None:
    """The line of `<folder>/log.jsonl` that measured the weights which were kept; None where nothing was measured."""
    lines = [json.loads(text) for text in (folder / LOG_FILE).read_text().splitlines()]
    evaluations = [line for line in lines if "prompts" in line]
    if not evaluations:
        return None
    if choose == "last":
        return evaluations[-1]
    criterion, sign = CRITERIA[stage]
    return min(evaluations, key=lambda line: sign * line[criterion])


def summarize(evaluation: dict[str, Any], metric: str, num_networks: int, num_runs: int) -> str:
    """A line about an evaluation; warns where the prompts count for next to nothing.

    Args:
        evaluation: a line of the log.
        metric: that is prompted.
        num_networks: that were measured.
        num_runs: that were learned from.
    """
    prompts, achieved = ((min(evaluation[key]), max(evaluation[key])) for key in ("prompts", "achieved"))
    if achieved[1] - achieved[0] < UNHEEDED * (prompts[1] - prompts[0]):
        warnings.warn(
            f"the model answers every prompt nearly alike: networks reach a {metric} of {achieved[0]:.4g} to "
            f"{achieved[1]:.4g} where {prompts[0]:.4g} to {prompts[1]:.4g} was prompted; learn from more runs than "
            f"{num_runs} (hundreds are few), or take more steps of the first stage (--optimizer.num-steps), which "
            "teaches what a prompt is, before a second one (--alignment.num-steps)",
            UnheededPromptsWarning,
            stacklevel=2,
        )
    return (
        f"prompt alignment {evaluation['alignment']:.3f} on {num_networks} held-out inits, validation split (1 is "
        f"perfect, a constant answer has at most 0): {metric} {achieved[0]:.4g} to {achieved[1]:.4g} where "
        f"{prompts[0]:.4g} to {prompts[1]:.4g} was prompted"
    )
