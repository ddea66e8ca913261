"""Do two classifiers make the same mistakes? Behaviour as a second measure of novelty, beside distance.

The measure is that of Zeng et al. 2025 (arXiv 2506.07998): wrong answers in common over wrong answers of either. It
rises with accuracy, since the last mistakes of good classifiers are the same hard examples: it says something only
between networks of equal accuracy, or relative to what fresh networks of that accuracy have.

M, N = networks, E = examples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from g_pt.tasks.base import Split
from g_pt.tasks.classification import ClassificationTask

PEERS = 20


@torch.no_grad()
def wrong_answers(task: ClassificationTask, params: Tensor, split: Split = "test") -> Tensor:
    """Which examples of a split each network (N, P) gets wrong: (N, E), bool."""
    data = task.splits[split].to(params.device)
    networks, examples = task.evaluation_chunk(len(data))
    found = []
    for part in params.split(networks):
        tensors = task.layout.unflatten(part)
        logits = [task.forward(tensors, inputs) for inputs in data.inputs.split(examples)]  # (N, C, E)
        found.append(torch.cat(logits, dim=-1).argmax(dim=1) != data.labels)
    return torch.cat(found)


def overlaps(wrong: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of the wrong answers of all pairs: (M, E) and (N, E) to (M, N).

    Two networks without any mistake have all of them in common: 1.
    """
    common = wrong.float() @ others.float().T
    union = wrong.sum(dim=1)[:, None] + others.sum(dim=1)[None] - common
    return torch.where(union > 0, common / union.clamp(min=1), 1.0)


def overlap_of_peers(wrong: Tensor, peers: Tensor, peer_overlap: Tensor, num: int = PEERS) -> Tensor:
    """Measure the overlap of independent networks of the same accuracy: the mean over the peers nearest in mistakes.

    Args:
        wrong: (M, E) of the networks in question.
        peers: (N, E) of networks that were trained and never seen.
        peer_overlap: (N,) their overlap with the training runs.
        num: peers that are averaged; all of them where there are fewer.

    Returns:
        (M,).
    """
    gap = (wrong.sum(dim=1)[:, None] - peers.sum(dim=1)[None]).abs()  # (M, N)
    nearest = gap.argsort(dim=1, stable=True)[:, :num]
    return peer_overlap[nearest].mean(dim=1)
