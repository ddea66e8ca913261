"""A G.pt as an update rule: a step is one sampled update, whose result is the next start.

Importing this file imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from g_pt.update_rules.base import Cost

if TYPE_CHECKING:
    from g_pt.model.pipeline import ParameterUpdatePipeline
    from g_pt.tasks.base import Task
    from g_pt.update_rules.base import Problem, Tensors


@dataclass(frozen=True)
class PromptRule:
    """A G.pt that is there, with one prompt.

    Networks whose parameters are not finite have no metric to start from, and stay as they are.

    Attributes:
        pipeline: of the model.
        prompt: raw, the same at every step.
        num_inference_steps: sampling steps; the pipeline's default where None.
        alpha: share of the way to each update that is gone, see `accepted`.
    """

    pipeline: ParameterUpdatePipeline
    prompt: float
    num_inference_steps: int | None = None
    alpha: float = 1.0
    name: ClassVar[str] = "G.pt"

    def __post_init__(self) -> None:
        from g_pt.model.prompting import check_alpha

        check_alpha(self.alpha)

    def init(self, params: Tensors, task: Task) -> None:
        """See `UpdateRule`; there is no state."""

    def step(self, params: Tensors, state: None, problem: Problem) -> tuple[Tensors, None]:
        """See `UpdateRule`; all tensors of the layout are the model's, buffers included."""
        import torch

        from g_pt.model.prompting import accepted

        layout, pipeline = problem.task.layout, self.pipeline
        starts = layout.flatten(params)
        finite = starts.isfinite().all(dim=1, keepdim=True)
        safe = starts if finite.all() else torch.where(finite, starts, 0.0)  # all keep their places in the noise
        metric = problem.metric(layout.unflatten(safe), pipeline.metric.name)
        updated = pipeline(
            safe, self.prompt, metric, num_inference_steps=self.num_inference_steps, generator=problem.generator
        ).params.to(starts)
        problem.cost += Cost(model_passes=self.num_inference_steps or pipeline.config.num_inference_steps)
        return layout.unflatten(torch.where(finite, accepted(starts, updated, self.alpha), starts)), None


@dataclass(frozen=True)
class SavedPromptRule:
    """A G.pt by its name: see `PromptRule`. Its state is the rule with the loaded model."""

    model: str = "digits-loss"
    """Bundled model, folder or Hub repository of the G.pt."""
    prompt: float | None = None
    """Wanted metric, raw; the best that the model's training runs attained where it is not given."""
    num_inference_steps: int | None = None
    """Sampling steps; the model's default where it is not given."""
    alpha: float = 1.0
    """Share of the way to an update that is gone: 1 is the update, 0 none (Lookahead's, with an update as the fast
    weights)."""
    name: ClassVar[str] = PromptRule.name

    def init(self, params: Tensors, task: Task) -> PromptRule:
        """Load the model.

        Raises:
            ValueError: the model changes other networks, or a prompt is needed.
        """
        from g_pt.model.pipeline import ParameterUpdatePipeline
        from g_pt.runtime.seeds import seeded_global_generator
        from g_pt.update_rules.torch_optimizer import best_prompt

        with seeded_global_generator(0):  # modules draw weights, which those of the file replace
            pipeline = ParameterUpdatePipeline.from_pretrained(self.model)
        pipeline.set_progress_bar_config(disable=True)
        if pipeline.layout != task.layout:
            raise ValueError(
                f"model {self.model!r} changes networks of {pipeline.layout.describe()}, those of task {task.name!r} "
                f"are {task.layout.describe()}: take a model of this task"
            )
        prompt = best_prompt(pipeline) if self.prompt is None else self.prompt
        return PromptRule(pipeline, prompt, self.num_inference_steps, self.alpha)

    def step(self, params: Tensors, state: PromptRule, problem: Problem) -> tuple[Tensors, PromptRule]:
        """See `UpdateRule`."""
        return state.step(params, None, problem)[0], state
