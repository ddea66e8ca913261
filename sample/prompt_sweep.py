"""Update one start for a whole range of prompts: prompted against achieved, and the answers of the networks.

    python sample/prompt_sweep.py --out prompt_sweep.png
    python sample/prompt_sweep.py --model cartpole-return --prompts 12 --prompt-range 20 500

Answers: class probabilities for a few test examples; the predicted curve of a regression with one input; action
probabilities, or mean actions, of policies in states of an episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from g_pt.report.study import StudyArguments, check_counts, run_study

if TYPE_CHECKING:
    from g_pt.report.section import Section, Subject


@dataclass(frozen=True)
class Arguments(StudyArguments):
    """Which prompts."""

    out: Path = Path("prompt_sweep.png")
    """The picture (.png, .pdf, .svg)."""
    prompts: int = 24
    """Evenly spaced prompts."""
    prompt_range: tuple[float, float] | None = None
    """From the runs' best metric to that of an init where not given."""


def measure(arguments: Arguments, subject: Subject) -> Section:
    """One start, a network for each prompt."""
    from g_pt.model.prompting import prompt_grid
    from g_pt.report.sweep import measure_sweep

    check_counts(arguments, prompts=2)
    if arguments.prompt_range is None:
        return measure_sweep(subject, subject.attainable_prompts(arguments.prompts))
    first, last = subject.metric.best_first(*sorted(arguments.prompt_range))
    if first == last:
        raise ValueError(f"--prompt-range must have two different ends, got {first:g} twice")
    return measure_sweep(subject, prompt_grid(first, last, arguments.prompts))


main = partial(run_study, Arguments, measure, prog="prompt_sweep.py", description=__doc__)

if __name__ == "__main__":
    main()
