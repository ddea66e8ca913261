"""A small task of networks with BatchNorm."""

import torch
from torch import nn

from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.examples import split_examples


def blobs(num=300, shift=4.0):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num) % 2
    return split_examples(2 * torch.randn(num, 3, generator=generator) + 3 * labels[:, None] + shift, labels)


class Blobs(ClassificationTask):
    name = "blobs"
    splits = blobs()

    def network(self):
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
