"""Courses of the optimizers that repeated updates are compared with: for supervised tasks and for policies.

B = networks, S = numbers of steps at which networks are measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from g_pt.report.courses import TUNING_NETWORKS, rivals, run_rival
from g_pt.report.population import tuned_courses
from g_pt.report.section import Subject
from g_pt.tasks.base import PopulationTask, TrainableTask


def rival_courses(subject: Subject, starts: Tensor, names: Sequence[str], steps: list[int]) -> dict[str, Tensor]:
    """Test metric (B, S) after each number of steps at the learning rate that suits it best, by optimizer.

    Policies have one opponent, PPO, which starts from inits of its own; the others start from `starts` (B, P), raw.

    Raises:
        ValueError: a name is unknown, or the task does not say how its networks are trained.
    """
    task = subject.task
    if isinstance(task, PopulationTask):
        generator = subject.generator("rivals/PPO")
        return {"PPO": tuned_courses(subject, task, len(starts), steps, generator)[0]}
    if not isinstance(task, TrainableTask):
        raise ValueError(f"task {task.name!r} has no training losses, so no optimizer can be compared with")
    rules, _ = rivals(task.layout.unflatten(starts), task)
    known = {name.lower(): name for name in rules}
    unknown = [name for name in names if name.lower() not in known]
    if unknown:
        raise ValueError(f"there is no optimizer {unknown[0]!r} here; there are {list(rules)}")
    courses, others = {}, task.init(TUNING_NETWORKS, subject.generator("optimizers/tuning networks"))
    for name in (known[name.lower()] for name in names):
        subject.progress(f"{steps[-1]} steps of {name}")
        course = run_rival(f"optimizers/{name}", rules[name], subject, starts, steps, others)
        courses[name] = course.test[subject.metric.name]
    return courses
