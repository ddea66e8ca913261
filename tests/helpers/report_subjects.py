"""Stand-ins for models and tasks whose report is known beforehand."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from g_pt.evaluation.runs import ReferenceRuns, RunSet
from g_pt.networks.metrics import Metric
from g_pt.networks.training_facts import TrainingFacts
from g_pt.permutations import PermutationSpec
from g_pt.report.section import Subject
from g_pt.tasks.base import TrainableTask

LOSS = Metric("loss", "nats")
FACTS = TrainingFacts.from_json(
    {
        "prompt_range": [0.0, 3.0],
        "attainable_range": [0.5, 2.5],
        "trained_runs": {"num_runs": 3, "test_loss": {"mean": 0.4}},
        "dataset": {"num_runs": 30, "source": {"batch_size": 8, "learning_rate": 0.5, "num_steps": 20}},
    }
)


class Bowl(TrainableTask):
    """Networks 5-4-3 whose loss is half the squared length of their parameters, whatever the examples are."""

    name = "bowl"
    metrics = {"loss": LOSS}  # noqa: RUF012
    num_examples = 64

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))

    @property
    def permutations(self) -> PermutationSpec:
        return PermutationSpec.none(self.layout)

    def init(self, num_networks: int, generator: torch.Generator) -> Tensor:
        return 0.5 * torch.randn(num_networks, self.layout.num_params, generator=generator)

    def evaluate(self, params: Tensor, split: str = "test") -> dict[str, Tensor]:
        return {"loss": params.square().sum(dim=1) / 2}

    def training_losses(self, tensors: Any, examples: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return sum(t.flatten(1).square().sum(dim=1) for t in tensors.values()) / 2


def rescaled(params: Tensor, loss: Tensor) -> Tensor:
    """Networks of `Bowl` with a loss of (B,)."""
    return params * ((2 * loss).sqrt() / params.norm(dim=1))[:, None]


class StandIn:
    """A pipeline for `Bowl` whose updates have the loss that `answer(prompt, loss before, generator)` says."""

    metric = LOSS

    def __init__(self, answer: Callable[[Tensor, Tensor, torch.Generator], Tensor]) -> None:
        self.task, self.answer = Bowl(), answer
        self.facts, self.config = FACTS, SimpleNamespace(num_inference_steps=2)

    def __call__(
        self, params: Tensor, prompt: Any, starting_metric: Tensor | None = None, generator: Any = None, **_: Any
    ) -> Any:
        prompts = torch.as_tensor(prompt).expand(len(params))
        before = self.task.evaluate(params)["loss"]
        return SimpleNamespace(params=rescaled(params, self.answer(prompts, before, generator)))


def perfect(prompt: Tensor, before: Tensor, generator: torch.Generator) -> Tensor:
    return prompt


def stubborn(prompt: Tensor, before: Tensor, generator: torch.Generator) -> Tensor:
    return torch.full_like(prompt, 1.2)


def halfway(prompt: Tensor, before: Tensor, generator: torch.Generator) -> Tensor:
    return (prompt + before) / 2


def noisy(prompt: Tensor, before: Tensor, generator: torch.Generator) -> Tensor:
    return prompt + 0.1 * torch.randn(prompt.shape, generator=generator)


def subject(answer: Callable[..., Tensor], **options: Any) -> Subject:
    settings: dict[str, Any] = {"num_networks": 12, "num_prompts": 5, "optimizer_steps": 12} | options
    return Subject(StandIn(answer), "stand-in", **settings)  # type: ignore[arg-type]


def reference_runs(num: int = 6) -> ReferenceRuns:
    params = rescaled(Bowl().init(num, torch.Generator().manual_seed(9)), torch.full((num,), 0.6))
    ends = RunSet(
        params,
        params,
        torch.full((num,), 0.6),
        params,
        torch.full((num,), 0.6),
        params[:, None],
        torch.zeros(1),
        Bowl().layout,
    )
    return ReferenceRuns(ends, ends)
