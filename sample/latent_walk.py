"""Walk through the sampling noise of one start and one prompt: a film of the first layer and of the metric.

    python sample/latent_walk.py --out latent_walk.gif
    python sample/latent_walk.py --model cartpole-return --prompt 300 --draws 3 --frames 8

The path goes along arcs through a few draws of the noise and ends where it began, so that the film has no seam.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from g_pt.report.study import FILMS, StudyArguments, check_counts, run_study

if TYPE_CHECKING:
    from g_pt.report.section import Section, Subject


@dataclass(frozen=True)
class Arguments(StudyArguments):
    """Where to walk."""

    out: Path = Path("latent_walk.gif")
    """The film (.gif)."""
    prompt: float | None = None
    """Prompt of every update; the best one on the validation split where not given."""
    draws: int = 4
    """Draws of the noise that the path leads through."""
    frames: int = 12
    """Frames from one draw to the next."""


def measure(arguments: Arguments, subject: Subject) -> Section:
    """The walk, as the section of `gpt-evaluate`."""
    from g_pt.report.latent_walk import walk_latents, walk_section

    check_counts(arguments, draws=2, frames=1)
    prompt = subject.best_prompt if arguments.prompt is None else arguments.prompt
    generator = subject.generator("latent_walk")
    return walk_section(subject, walk_latents(subject, prompt, generator, arguments.draws, arguments.frames))


main = partial(run_study, Arguments, measure, prog="latent_walk.py", description=__doc__, formats=FILMS)

if __name__ == "__main__":
    main()
