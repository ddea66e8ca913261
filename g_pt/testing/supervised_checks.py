"""Checks of supervised tasks: their examples, and whether many networks at once compute what `network()` computes.

B = networks, N = examples.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from g_pt.tasks.base import SPLITS
from g_pt.tasks.supervised import SupervisedTask
from g_pt.tasks.templates import running_statistics
from g_pt.testing.requirements import load, networks, require, require_equal, run

NUM_EXAMPLES = 64


def check_splits(task: SupervisedTask) -> None:
    """Three splits with finite examples; validation and test are not examples of the training split."""
    require(set(task.splits) == set(SPLITS), f"splits must be {list(SPLITS)}, got {list(task.splits)}")
    for split, data in task.splits.items():
        require(len(data) > 0, f"split {split!r} must have examples")
        for kind, values in (("inputs", data.inputs), ("labels", data.labels)):
            require(bool(values.isfinite().all()), f"{kind} of split {split!r} must be finite")
        try:
            task.examples(split)
        except ValueError as error:
            raise AssertionError(str(error)) from error
    train_inputs = task.splits["train"].inputs.flatten(1).double()
    direction = torch.randn(train_inputs.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for split in ("validation", "test"):
        some = task.splits[split].inputs[:NUM_EXAMPLES].flatten(1).double()
        gaps = ((some @ direction)[:, None] - (train_inputs @ direction)).abs().amin(dim=1)
        require(bool((gaps > 1e-9).any()), f"split {split!r} must hold other examples than the training split")


def check_chunks(task: SupervisedTask) -> None:
    """An evaluation in small parts gives what an evaluation in one gives."""
    params = networks(task)
    whole, chunked = task.evaluate(params), copy.copy(task)
    for chunk in ((1, 1 << 30), (1 << 30, 1 + len(task.splits["test"]) // 2)):
        setattr(chunked, "evaluation_chunk", lambda _, chunk=chunk: chunk)  # noqa: B010
        for name, values in chunked.evaluate(params).items():
            require_equal(values, whole[name], f"{name} measured in parts")


def check_outputs_of_module(task: SupervisedTask) -> None:
    """Outputs of B networks are those of `network()` with the same parameters, in evaluation mode."""
    params, inputs = networks(task), task.examples("validation").inputs[:NUM_EXAMPLES]
    with torch.no_grad():
        outputs = task.forward(task.layout.unflatten(params), inputs)
        for row, together in zip(params, outputs, strict=True):
            wanted = run(load(task, row).eval(), inputs).movedim(0, -1)
            require_equal(together, wanted, "forward: outputs (B, ..., N) against those of network()")


def check_training_of_module(task: SupervisedTask) -> None:
    """Losses, gradients and running statistics are those of `network()` in training mode."""
    params, rows = networks(task), torch.arange(min(NUM_EXAMPLES, task.num_examples))
    tensors, losses = seeded_losses(task, params, rows, seed=0)
    trained = [tensors[name] for name in task.trained_names]
    grads = torch.autograd.grad(losses.sum(), trained)
    again, other = (seeded_losses(task, params, rows, seed=seed)[1] for seed in (0, 1))
    require(torch.equal(again, losses), "training_losses must draw from the global generator alone")
    if not torch.equal(other, losses):
        return  # dropout draws other numbers for many networks than for one
    data = task.examples("train")
    for i, row in enumerate(params):
        module = load(task, row).train()
        loss = task.losses(run(module, data.inputs[rows]).movedim(0, -1)[None], data.labels[rows])[0]
        require_equal(losses[i], loss, "training_losses against network() in training mode")
        own = dict(module.named_parameters())
        wanted = torch.autograd.grad(loss, [own[name] for name in task.trained_names])
        for name, got, grad in zip(task.trained_names, grads, wanted, strict=True):
            require_equal(got[i], grad, f"gradient of {name!r} against that of network()")
        for name in running_statistics(module):
            what = f"{name!r} after a training step: update it in place where `self.template.training`"
            require_equal(tensors[name][i], module.state_dict()[name], what)


def seeded_losses(task: SupervisedTask, params: Tensor, rows: Tensor, *, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Training losses with the global generator at a seed, and the tensors that they were computed from."""
    tensors = {name: tensor.clone() for name, tensor in task.layout.unflatten(params).items()}
    for name in task.trained_names:
        tensors[name].requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return tensors, task.training_losses(tensors, rows)
