"""Files as a user writes them: a task with BatchNorm and Dropout in about 20 lines."""

from pathlib import Path

BATCHNORM_FILE = """
import torch
from torch import nn

from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.examples import split_examples


class Blobs(ClassificationTask):
    name = "blobs"

    def network(self):
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(400) % 2
        inputs = 2 * torch.randn(400, 3, generator=generator) + 3 * labels[:, None] + 5
        self.splits = split_examples(inputs, labels)
        print("made the blobs")
"""


def write_batchnorm_task(folder: Path) -> str:
    """Write the file; returns "path/to/file.py:Class"."""
    file = folder / "my_task.py"
    file.write_text(BATCHNORM_FILE)
    return f"{file}:Blobs"
