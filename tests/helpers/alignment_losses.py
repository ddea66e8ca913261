"""The loss of the second stage on pairs that are known, and a model that notes its calls."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from g_pt.model.pairs import CheckpointPairs
from g_pt.training.alignment import AlignmentLoss
from g_pt.training.config import AlignmentConfig, PairConfig, TrainConfig
from g_pt.training.loop import make_denoising_loss

SMALL = AlignmentConfig(num_steps=4, batch_size=8, num_examples=32, diffusion_weight=0.0)
ONE_PROCESS = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"))


class Recorder:
    """A model that notes what it is called with."""

    def __init__(self, model):
        self.model, self.calls = model, []

    def __call__(self, x_t, t, x_start, starting, prompted):
        self.calls.append(SimpleNamespace(x_t=x_t, t=t, x_start=x_start, starting=starting, prompted=prompted,
                                          gradient=torch.is_grad_enabled()))  # fmt: skip
        return self.model(x_t, t, x_start, starting, prompted)


def pairs_of(task):
    """Pairs of any step: the future is off by 0.01 in every parameter and for every step."""

    def pairs(step, share):
        starts = task.init(8, torch.Generator().manual_seed(1000 + step))
        metrics = torch.full((8,), 2.0), torch.linspace(0.2, 2.0, 8)
        pairs = CheckpointPairs(starts, starts + 0.01 * step, *metrics)
        return CheckpointPairs(*(value[share] for value in vars(pairs).values()))

    return pairs


def make_loss(pipeline, task, process=ONE_PROCESS, *, pairs=None, augmentation="none", **options):
    config = TrainConfig(pairs=PairConfig(batch_size=8, augmentation=augmentation))
    denoising = make_denoising_loss(config, task, pipeline, pairs or pairs_of(task), process, first_step=50)
    return AlignmentLoss(replace(SMALL, **options), task, pipeline, denoising, process, seed=0)
