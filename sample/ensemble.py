"""Average the predictions of sampled networks: K samples of one start, against one sample of each of K starts.

    python sample/ensemble.py --out ensemble.png
    python sample/ensemble.py --ensembles 4 --samples 8 --prompt 0.15

Loss, error and calibration of ensembles of 1, 2, 4, ... samples on the test split, and how much the samples differ.
Policies have no predictions on labelled examples, so there is nothing to average: they are refused.
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
    """Which ensembles."""

    out: Path = Path("ensemble.png")
    """The picture (.png, .pdf, .svg)."""
    prompt: float | None = None
    """Prompt of every sample; the best one on the validation split where not given."""
    ensembles: int = 16
    """Ensembles of each kind, over which means and intervals are taken."""
    samples: int = 16
    """Members of an ensemble at most."""


def measure(arguments: Arguments, subject: Subject) -> Section:
    """Refuse what has no predictions before anything is sampled; then sample and average."""
    from g_pt.evaluation.ensembles import supervised
    from g_pt.report.ensemble import measure_ensemble

    check_counts(arguments, ensembles=2, samples=2)
    supervised(subject.task)
    prompt = subject.best_prompt if arguments.prompt is None else arguments.prompt
    return measure_ensemble(subject, arguments.ensembles, arguments.samples, prompt)


main = partial(run_study, Arguments, measure, prog="ensemble.py", description=__doc__)

if __name__ == "__main__":
    main()
