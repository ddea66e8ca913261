"""A small task of networks with convolutions of all kinds."""

from __future__ import annotations

import torch
from torch import nn

from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.examples import LabelledExamples


class Convolutions(ClassificationTask):
    """Convolutions of all kinds, one of them called twice, and a linear layer."""

    name = "convolutions"

    def __init__(self) -> None:
        images = torch.randn(40, 2, 7, 6, generator=torch.Generator().manual_seed(0))
        self.splits = dict.fromkeys(("train", "validation", "test"), LabelledExamples(images, torch.arange(40) % 3))

    def network(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(2, 3, (3, 2), stride=2, padding=1, padding_mode="circular"), nn.Tanh(), Twice(),
            nn.Flatten(2), nn.Conv1d(3, 4, 3, padding="same", dilation=2, bias=False), nn.Tanh(),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3),
        )  # fmt: skip


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        return self.conv(self.conv(images).relu())
