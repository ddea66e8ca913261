"""Training of one model for a family: every step draws a size, and its loss is that of networks of this size.

A step of the first stage has pairs of one harvested size. A step of the second has fresh inits of a harvested size, or,
since inits cost nothing, of one that nobody ever harvested; what such a size attains is read off its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from g_pt.evaluation.statistics import prompt_alignment
from g_pt.model.normalization import ParameterNormalizer
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.prompting import measure_updates, update_networks
from g_pt.model.sharing import share_weights
from g_pt.model.transformer import ParameterTransformer
from g_pt.networks.training_facts import log_width, size_name
from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks.family import Hidden, TaskFamily, draw_width, parse_hidden
from g_pt.training.alignment import AlignmentLoss
from g_pt.training.config import FamilyConfig, TrainConfig
from g_pt.training.denoising import DenoisingLoss
from g_pt.training.generalization import GeneralizationGap
from g_pt.training.loop import make_denoising_loss
from g_pt.training.probe import PromptProbe
from g_pt.training.setup import SIZE_STREAM, PairSource

PROBE_NETWORKS = 16  # of each size but the default one
UNIT_COST, MIN_BATCH = 8, 8  # what a unit costs, in edges; the smallest batch
DENOISING_EVERY = 4


class FamilyTraining:
    """What differs where a family is trained: model, losses and evaluations.

    Attributes:
        family: whose networks are updated.
        pairs: of each harvested size.
        normalizer: of all sizes.
    """

    def __init__(
        self,
        config: TrainConfig,
        family: TaskFamily,
        pairs: Mapping[Hidden, PairSource],
        normalizer: ParameterNormalizer,
    ) -> None:
        """Prepare.

        Raises:
            ValueError: runs are to teach, which are all of one size.
        """
        if config.alignment.teacher_runs:
            raise ValueError(
                "alignment.teacher_runs must be 0 for a family: runs teach networks of their own size only"
            )
        self.config, self.family, self.pairs, self.normalizer = config, family, dict(pairs), normalizer
        self.options = config.family
        self.held_out = set(parse_hidden(self.options.held_out, torch.Generator()))
        self._members: dict[Hidden, ParameterUpdatePipeline] = {}

    def load_weights(self, model: ParameterTransformer) -> None:
        """Begin with the weights of a trained model of one size, where the settings name one."""
        if self.options.start_from is not None:
            share_weights(model, ParameterUpdatePipeline.from_pretrained(self.options.start_from).transformer)

    def denoising(self, pipeline: ParameterUpdatePipeline, accelerator: Accelerator, first_step: int = 0) -> FamilyLoss:
        """The loss of the first stage."""
        losses = {hidden: self.denoising_of(hidden, pipeline, accelerator, first_step) for hidden in self.pairs}
        draw = partial(draw_seen, list(self.pairs), self.options, self.config.seed + first_step)
        return FamilyLoss(pipeline, draw, losses.__getitem__, self)

    def denoising_of(
        self, hidden: Hidden, pipeline: ParameterUpdatePipeline, accelerator: Accelerator, first_step: int
    ) -> DenoisingLoss:
        """The loss of one size; the larger the networks, the fewer pairs."""
        config = replace(self.config, pairs=replace(self.config.pairs, batch_size=self.batch_size(hidden, accelerator)))
        task, own = self.family.member(hidden), self.member(hidden, pipeline)
        return make_denoising_loss(config, task, own, self.pairs[hidden], accelerator, first_step)

    def alignment(self, pipeline: ParameterUpdatePipeline, accelerator: Accelerator) -> AlignmentFamilyLoss:
        """The loss of the second stage."""
        self._members.clear()  # the facts of the pipeline are others by now
        return AlignmentFamilyLoss(self, pipeline, accelerator)

    def batch_size(self, hidden: Hidden, accelerator: Accelerator, most: int | None = None) -> int:
        """Networks of a step: as many as the settings say, fewer where they have many units and edges."""
        edges = sum(a * b for a, b in pairwise(hidden)) + UNIT_COST * sum(hidden)
        fitting = self.options.batch_cost // edges
        most = most or self.config.pairs.batch_size
        num = accelerator.num_processes
        return max(num, min(most, max(MIN_BATCH, fitting)) // num * num)

    def member(self, hidden: Hidden, pipeline: ParameterUpdatePipeline) -> ParameterUpdatePipeline:
        """The pipeline of a size, kept: its plan, its scale and its facts."""
        if hidden not in self._members:
            self._members[hidden] = pipeline.member(hidden)
        return self._members[hidden]

    def probe(self, pipeline: ParameterUpdatePipeline, probe: PromptProbe) -> FamilyProbe:
        """The evaluation of the default size, and shorter ones of the others."""
        return FamilyProbe(self, pipeline, probe)


class FamilyLoss:
    """The loss of a size drawn at each step; (model as Accelerate prepared it, step) to a scalar."""

    def __init__(self, pipeline: ParameterUpdatePipeline, draw: Any, loss_of: Any, training: FamilyTraining) -> None:
        """`draw`: step to size; `loss_of`: size to its loss."""
        self.pipeline, self.draw, self.loss_of, self.training = pipeline, draw, loss_of, training

    def __call__(self, model: nn.Module, step: int) -> Tensor:
        """The loss of a step: a scalar."""
        hidden = self.draw(step)
        plan = self.training.member(hidden, self.pipeline).transformer.tokens.plan
        loss: Tensor = self.loss_of(hidden)(partial(model, plan=plan), step)
        # what this size has no tensors for gets a gradient of 0, not none: several processes wait for all of them
        return loss + 0.0 * sum(parameter.sum() for parameter in model.parameters())


class AlignmentFamilyLoss(FamilyLoss):
    """The same of the second stage: sizes that were harvested and sizes that were not.

    The denoising loss is added at every fourth step, four times: in the mean the same, for a quarter of its time.
    """

    def __init__(self, training: FamilyTraining, pipeline: ParameterUpdatePipeline, accelerator: Accelerator) -> None:
        super().__init__(pipeline, self.drawn, self.aligned, training)
        self.accelerator = accelerator
        self.denoising = training.denoising(pipeline, accelerator, training.config.optimizer.num_steps)
        self._losses: dict[Hidden, AlignmentLoss] = {}

    def __call__(self, model: nn.Module, step: int) -> Tensor:
        """The loss of a step: a scalar."""
        weight = self.training.config.alignment.diffusion_weight
        loss = super().__call__(model, step)
        if weight and step % DENOISING_EVERY == 0:
            loss = loss + DENOISING_EVERY * weight * self.denoising(model, step)
        return loss

    def drawn(self, step: int) -> Hidden:
        """The size of a step."""
        training = self.training
        generator = keyed_generator(training.config.seed, step, SIZE_STREAM, 1)
        if torch.rand((), generator=generator) < training.options.unseen_share:
            return draw_unseen(training, generator)
        return draw_seen(list(training.pairs), training.options, training.config.seed, step)

    def aligned(self, hidden: Hidden) -> AlignmentLoss:
        """The loss of one size, kept; fresh inits only where there are no checkpoints of it."""
        if hidden not in self._losses:
            training, seen = self.training, hidden in self.training.pairs
            size = training.batch_size(hidden, self.accelerator, training.config.alignment.batch_size)
            options = replace(training.config.alignment, batch_size=size, diffusion_weight=0.0)
            source = hidden if seen else self.nearest(hidden)
            self._losses[hidden] = AlignmentLoss(
                options if seen else replace(options, checkpoint_share=0.0),
                training.family.member(hidden),
                training.member(hidden, self.pipeline),
                self.denoising.loss_of(source),
                self.accelerator,
                seed=training.config.seed,
                gap=None if seen else self.gap_of(source),
            )
        return self._losses[hidden]

    def gap_of(self, hidden: Hidden) -> GeneralizationGap:
        """Which training metric goes with which validation metric in networks of a harvested size."""
        return self.aligned(hidden).gap

    def nearest(self, hidden: Hidden) -> Hidden:
        """The harvested size that is most like another: in layers, then in mean log width."""
        place = log_width(hidden)
        return min(self.training.pairs, key=lambda seen: (abs(len(seen) - len(hidden)), abs(log_width(seen) - place)))


class FamilyProbe(PromptProbe):
    """The evaluation of the default size, and the alignment and best metric of every size harvested."""

    def __init__(self, training: FamilyTraining, pipeline: ParameterUpdatePipeline, probe: PromptProbe) -> None:
        vars(self).update(vars(probe))
        self.training, self.whole = training, pipeline

    @cached_property
    def inits(self) -> dict[Hidden, Tensor]:
        """Fresh networks of each size."""
        family = self.training.family
        num = min(PROBE_NETWORKS, len(self.starts))
        return {
            hidden: family.member(hidden).init(num, keyed_generator(self.seed + 1_000_003, i))
            for i, hidden in enumerate(self.training.pairs)
        }

    def measure(self) -> dict[str, Any]:
        """As `PromptProbe.measure`, with `sizes`: `{"24-12": {"alignment": ..., "achieved": at the best prompt}}`."""
        return super().measure() | {"sizes": {size_name(h): self.of_size(h) for h in self.inits}}

    def of_size(self, hidden: Hidden) -> dict[str, float]:
        """Alignment and the metric achieved at the best prompt, on the validation split."""
        pipeline, generator = self.whole.member(hidden), keyed_generator(self.seed)
        prompts = pipeline.facts.prompts(len(self.prompts))
        updated = update_networks(pipeline, self.inits[hidden], prompts, generator=generator)
        achieved = measure_updates(pipeline.task, updated, "validation")[pipeline.metric.name]
        alignment = prompt_alignment(prompts, achieved).mean().item()
        return {"alignment": alignment, "prompt": prompts[0].item(), "achieved": achieved[:, 0].mean().item()}


def draw_seen(sizes: list[Hidden], options: FamilyConfig, seed: int, step: int) -> Hidden:
    """A harvested size: first the number of layers by its weight, then any size that has it."""
    generator = keyed_generator(seed, step, SIZE_STREAM)
    depths = sorted({len(hidden) for hidden in sizes})
    depth = draw_depth(depths, options, generator)
    alike = [hidden for hidden in sizes if len(hidden) == depth]
    return alike[int(torch.randint(len(alike), (), generator=generator))]


def draw_unseen(training: FamilyTraining, generator: torch.Generator) -> Hidden:
    """Widths drawn log-uniformly, those that are held out left out."""
    depths = sorted({len(hidden) for hidden in training.pairs})
    while True:
        depth = draw_depth(depths, training.options, generator)
        low, high = training.options.width_range if depth == 1 else training.options.deep_width_range
        hidden = tuple(draw_width(f"{low}..{high}", generator) for _ in range(depth))
        if hidden not in training.held_out:
            return hidden


def draw_depth(depths: list[int], options: FamilyConfig, generator: torch.Generator) -> int:
    """A number of layers, by the weights of the settings."""
    weights = [options.layer_weights[min(depth, len(options.layer_weights)) - 1] for depth in depths]
    total = torch.tensor(weights).cumsum(0)
    drawn = float(torch.rand((), generator=generator)) * float(total[-1])
    return depths[min(len(depths) - 1, int(torch.searchsorted(total, drawn)))]
