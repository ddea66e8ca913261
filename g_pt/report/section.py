"""A section of the report: facts for the JSON file, tables for people, pictures."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from checkpoints_dataset.config import HarvestConfig
from g_pt.evaluation.runs import ReferenceRuns
from g_pt.files.config import merge
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.networks.metrics import Metric
from g_pt.report.best_prompt import choose_prompt
from g_pt.tasks.base import Task

PROMPT_NETWORKS = 64  # on which the best prompt is chosen
HARVEST_SETTINGS = ("rule", "batch_size", "num_steps", "ppo")  # that a comparison with the training runs follows


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row.

    Attributes:
        title: one line that says what is compared, on how many networks, on which split.
        columns: names, the first one that of the rows.
        rows: as long as `columns` each.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The table in Markdown, its title above."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


@dataclass(frozen=True)
class Section:
    """One question and its answer.

    Attributes:
        name: key of the JSON object and stem of the pictures.
        title: heading.
        facts: JSON; every figure with its number of networks and, where it is a mean, its interval.
        tables: for the terminal and for Markdown.
        notes: sentences on how to read them.
        figures: `{file name: function that writes the picture there}`, .png or .gif.
    """

    name: str
    title: str
    facts: dict[str, Any]
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    figures: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """A model under evaluation, and the size of the evaluation.

    Attributes:
        pipeline: with the facts of its training.
        model: its name.
        num_networks: freshly initialised networks; sections that cost more take a stated part of them.
        num_prompts: prompts over a range.
        num_inference_steps: sampling steps; the pipeline's default where None.
        seed: every section draws from `generator(its name)`, so that leaving one out changes no other.
        runs: what the model was trained on, and runs it never saw; None where they are not at hand.
        optimizer_steps: how long the optimizers run that one update is compared with.
        progress: called with a few words before each part of the work.
    """

    pipeline: ParameterUpdatePipeline
    model: str
    num_networks: int = 256
    num_prompts: int = 20
    num_inference_steps: int | None = None
    seed: int = 0
    runs: ReferenceRuns | None = None
    optimizer_steps: int = 1000
    progress: Callable[[str], object] = lambda words: None

    @property
    def metric(self) -> Metric:
        """The prompted metric."""
        return self.pipeline.metric

    @property
    def task(self) -> Task:
        """Whose networks are updated."""
        return self.pipeline.task

    def generator(self, name: str) -> torch.Generator:
        """Of everything random in a section."""
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{name}".encode()))

    def attainable_prompts(self, num_prompts: int) -> Tensor:
        """Evenly spaced prompts from the runs' best metric to that of an init: (K,), raw.

        Raises:
            ValueError: the pipeline does not know its attainable range.
        """
        return self.pipeline.facts.prompts(num_prompts)

    @cached_property
    def harvest(self) -> HarvestConfig:
        """How the model's training runs were made, as far as its facts say it; defaults elsewhere.

        Raises:
            ValueError: a recorded setting is none.
        """
        recorded = HarvestConfig.current_settings(self.pipeline.facts.dataset.source)
        settings = {name: recorded[name] for name in HARVEST_SETTINGS if name in recorded}
        return merge(HarvestConfig(num_checkpoints=2), settings, "settings of the model's training runs")

    @cached_property
    def best_prompt(self) -> float:
        """The best of `num_prompts` prompts over the attainable range, on at most 64 fresh networks; sampled once.

        The prompt that was best when the model was trained takes part, which may lie below.

        Raises:
            ValueError: the pipeline does not know its attainable range.
        """
        return choose_prompt(
            self.pipeline,
            torch.cat([torch.tensor(self.pipeline.facts.best_prompts), self.attainable_prompts(self.num_prompts)]),
            min(PROMPT_NETWORKS, self.num_networks),
            self.generator("best prompt"),
            self.num_inference_steps,
        )


class MeasureSection(Protocol):
    """A function that answers one question; None where the subject cannot be asked it."""

    def __call__(self, subject: Subject) -> Section | None:
        """Measure."""
        ...
