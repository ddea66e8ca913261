"""The toy tasks: their data, and that networks learn it."""

import math

import pytest
import torch

from g_pt.tasks import get_task
from g_pt.tasks.toys import moons, spirals, wave

SIZES = {"moons": (600, 200, 354), "spirals": (600, 200, 354), "regression": (300, 100, 321)}


def trained(task, num_steps, learning_rate=0.02):
    tensors = {n: t.clone() for n, t in task.layout.unflatten(task.init(4, torch.Generator().manual_seed(0))).items()}
    parameters = [tensor.requires_grad_() for tensor in tensors.values()]
    optimizer = torch.optim.Adam(parameters, learning_rate)
    for _ in range(num_steps):
        optimizer.zero_grad()
        task.training_losses(tensors, torch.arange(task.num_examples)).sum().backward()
        optimizer.step()
    return task.layout.flatten(tensors).detach()


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    task = get_task(name)
    num_train, num_held_out, num_params = SIZES[name]
    assert [len(task.splits[split]) for split in ("train", "validation", "test")] == [
        num_train, num_held_out, num_held_out,
    ]  # fmt: skip
    assert task.layout.num_params == num_params


@pytest.mark.parametrize("name", SIZES)
def test_the_data_is_the_same_every_time(name):
    first, again = get_task(name).splits, get_task(name).splits
    for split in first:
        assert torch.equal(first[split].inputs, again[split].inputs)
        assert torch.equal(first[split].labels, again[split].labels)


@pytest.mark.parametrize("make", [moons, spirals])
def test_points_are_centred_of_unit_size_and_of_two_classes_as_frequent(make):
    points, labels = make(1000)
    assert abs(points.mean(axis=0)).max() < 0.1
    assert 0.3 < points.std(axis=0).min() < points.std(axis=0).max() < 1.2
    assert labels.mean() == 0.5


@pytest.mark.parametrize("make", [moons, spirals])
def test_no_line_parts_the_classes(make):
    points, labels = (torch.as_tensor(a) for a in make(1000))
    design = torch.cat([points, torch.ones(1000, 1)], dim=1)
    plane = torch.linalg.lstsq(design, (2 * labels.double() - 1)[:, None]).solution
    wrong = ((design @ plane)[:, 0] > 0) != labels.bool()
    assert wrong.double().mean() > 0.05


@pytest.mark.parametrize(("name", "error"), [("moons", 6), ("spirals", 3), ("regression", 0.4)])
def test_networks_learn_the_task(name, error):
    task = get_task(name)
    measured = task.evaluate(trained(task, num_steps=150))
    assert (measured["error"] < error).float().mean() >= 0.75, measured


def test_the_wave_is_a_sine_with_a_little_noise():
    x, y = wave(500)
    noise = y - [math.sin(3 * math.pi * v) * (1 - v / 2) for v in x[:, 0]]
    assert 0.08 < noise.std() < 0.12
