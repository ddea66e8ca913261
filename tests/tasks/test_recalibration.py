"""Recalibration of networks that torch.vmap cannot run: tasks override `forward` for them."""

import torch
from blobs import Blobs
from torch import nn


class Branching(nn.Sequential):
    """BatchNorm, and control flow that torch.vmap cannot follow."""

    def forward(self, x):
        return super().forward(x if x.abs().max() < 1e9 else 0 * x)


class Looping(Blobs):
    def network(self):
        return Branching(*super().network())

    def forward(self, tensors, inputs):
        rows = ({name: tensor[i] for name, tensor in tensors.items()} for i in range(len(tensors["0.bias"])))
        outputs = [torch.func.functional_call(self.template, row, (inputs,)) for row in rows]
        return torch.stack(outputs).movedim(1, -1)


def test_networks_that_vmap_cannot_run_are_recalibrated_like_others(generator):
    params = Looping().init(3, generator)
    torch.testing.assert_close(Looping().recalibrate(params), Blobs().recalibrate(params))
