"""Prompt again and again, each result the next start, against an optimizer: the paper's figure of recursive prompting.

    python sample/recursive_prompting.py --out recursive_prompting.png
    python sample/recursive_prompting.py --model cartpole-return --updates 5 --steps 60 --networks 16

Curves are means over fresh inits, test split. Optimizers have, for each number of steps, the learning rate that was
best for it on the validation split and other networks. Policies are compared with PPO, which starts from inits of
its own.
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
    """What to compare."""

    out: Path = Path("recursive_prompting.png")
    """The picture (.png, .pdf, .svg)."""
    prompt: float | None = None
    """Prompt of every update; the best one on the validation split where not given."""
    networks: int = 32
    """Freshly initialised networks."""
    updates: int = 10
    """Updates, one after the other."""
    steps: int = 300
    """Steps of the optimizers, or iterations of PPO."""
    optimizers: tuple[str, ...] = ("SGD", "Adam")
    """Of SGD, Momentum, Nesterov, Adam, AdamW, RMSprop."""


def measure(arguments: Arguments, subject: Subject) -> Section:
    """The metric after every update, and after about evenly spaced steps (in the logarithm) of the optimizers."""
    import torch

    from g_pt.evaluation.statistics import bootstrap_mean, summary
    from g_pt.pictures.sections import save_updates_and_steps
    from g_pt.report.courses import measured_steps
    from g_pt.report.recursion import follow_prompts
    from g_pt.report.rivals import rival_courses
    from g_pt.report.section import Section, Table

    check_counts(arguments, networks=2, updates=1, steps=1)
    name, generator = subject.metric.name, subject.generator("recursion")
    starts = subject.task.init(arguments.networks, generator).float()
    prompt = subject.best_prompt if arguments.prompt is None else arguments.prompt
    steps = measured_steps(arguments.steps)
    courses = rival_courses(subject, starts, arguments.optimizers, steps)
    subject.progress(f"{arguments.updates} updates, one after the other")
    after = tuple(range(1, arguments.updates + 1))
    found = follow_prompts(subject, starts, torch.tensor([prompt]), generator, after)
    updates = torch.stack([found.achieved[number][name][:, 0] for number in after], dim=1)  # (B, U)
    curves = {"G.pt": (list(after), updates), **{rival: (steps, values) for rival, values in courses.items()}}
    rows = []
    for rule, (numbers, values) in curves.items():
        means = values.mean(dim=0)
        best = int(subject.metric.argbest(means.nan_to_num(*3 * [float("inf") if subject.metric.minimize else -1e30])))
        first, last, top = (f"{bootstrap_mean(values[:, k]):.3g}" for k in (0, -1, best))
        rows.append((rule, first, f"{top} after {numbers[best]}", f"{last} after {numbers[-1]}"))
    return Section(
        name="recursive_prompting",
        title="Updates of a G.pt against steps of an optimizer",
        facts={
            "prompt": prompt,
            f"before_test_{name}": summary(found.starting),
            "rules": {r: {"steps": n, f"test_{name}": [summary(c) for c in v.T]} for r, (n, v) in curves.items()},
        },
        tables=(
            Table(
                f"test {subject.metric.label}: {len(starts)} unseen inits, prompt {prompt:.3g}, before: "
                f"{bootstrap_mean(found.starting):.3g}",
                ("rule", "after one", "best", "last"),
                tuple(rows),
            ),
        ),
        figures={
            "recursive_prompting.png": lambda path: save_updates_and_steps(
                updates, {r: c for r, c in curves.items() if r != "G.pt"}, found.starting, path, subject.metric
            )
        },
    )


main = partial(run_study, Arguments, measure, prog="recursive_prompting.py", description=__doc__)

if __name__ == "__main__":
    main()
