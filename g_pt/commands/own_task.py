"""The task of a model where the user names it: `--task my_task.py:MyTask`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from g_pt.model.pipeline import ParameterUpdatePipeline
    from g_pt.tasks.base import Task


def check_task_of(pipeline: ParameterUpdatePipeline, task: Task, model: str) -> None:
    """Refuse a task that is not the model's."""
    if pipeline.config.task != task.name:
        raise ValueError(f"{model} is of task {pipeline.config.task!r}, but --task names task {task.name!r}")
