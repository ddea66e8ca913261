"""Look at the metric in the plane through a start, its update, and where training ends from the same start.

    python sample/loss_landscape.py --out loss_landscape.png
    python sample/loss_landscape.py --model cartpole-return --points 15 --steps 20

Supervised networks are trained as the model's own runs were, at a constant learning rate; policies by PPO, and their
metric is that of the batched simulator (validation split), since a thousand policies in Gymnasium take long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from g_pt.report.study import StudyArguments, check_counts, run_study

if TYPE_CHECKING:
    from g_pt.report.section import Section, Subject


@dataclass(frozen=True)
class Arguments(StudyArguments):
    """What to look at."""

    out: Path = Path("loss_landscape.png")
    """The picture (.png, .pdf, .svg)."""
    prompt: float | None = None
    """Prompt of the update; the best one on the validation split where not given."""
    points: int = 31
    """Networks along each side of the plane."""
    steps: int = 400
    """Training steps, or iterations of PPO; at most as many as the model's own runs had."""


def measure(arguments: Arguments, subject: Subject) -> Section:
    """One network's landscape; `gpt-evaluate --sections landscape` has means over many."""
    from g_pt.pictures.sections import save_plane
    from g_pt.report.landscape import (
        landscape_split,
        line_facts,
        metric_plane,
        policy_runs,
        training_runs,
        updates_beside,
    )
    from g_pt.report.section import Section, Table

    check_counts(arguments, points=2, steps=1)
    subject = replace(subject, optimizer_steps=arguments.steps)
    subject.progress("training from the start")
    runs = training_runs(subject, 1)
    runs = policy_runs(subject, 1) if runs is None else runs
    if not len(runs):
        raise ValueError("training from this start diverges with the settings of the model's runs: try another --seed")
    prompt = subject.best_prompt if arguments.prompt is None else arguments.prompt
    paths = updates_beside(subject, runs, subject.generator("landscape"), prompt, 2)
    task, metric, split = subject.task, subject.metric, landscape_split(subject.task)
    subject.progress(f"{arguments.points**2} networks of the plane")
    found = metric_plane(task, metric, paths.runs[0], paths.updates[0], split, arguments.points)
    line = {name: value.item() for name, value in line_facts(subject, paths, split).items()}
    ends = {"start": runs[0, :1], "update": paths.updates, "trained": runs[0, -1:]}
    measured = {name: task.evaluate(params.float(), split)[metric.name].item() for name, params in ends.items()}
    return Section(
        name="loss_landscape",
        title="Where does an update land?",
        facts={"prompt": prompt, "split": split, metric.name: measured, **line},
        tables=(
            Table(
                f"one unseen init, prompt {prompt:.3g}, {split} split",
                ("network", metric.label, "distance from the start (L2)"),
                (
                    ("start", f"{measured['start']:.3g}", "0"),
                    ("one update", f"{measured['update']:.3g}", f"{line['start_to_update']:.3g}"),
                    ("trained", f"{measured['trained']:.3g}", f"{line['start_to_trained']:.3g}"),
                ),
            ),
        ),
        notes=(
            f"From update to trained: {line['update_to_trained']:.3g}; cosine of both ways from the start "
            f"{line['cosine']:.2f}; barrier on the straight line between them {line['barrier']:.3g}.",
        ),
        figures={
            "loss_landscape.png": lambda path: save_plane(
                found.xs, found.ys, found.values, found.run, found.jump, path, metric, split
            )
        },
    )


main = partial(run_study, Arguments, measure, prog="loss_landscape.py", description=__doc__)

if __name__ == "__main__":
    main()
