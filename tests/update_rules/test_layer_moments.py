"""Second moments at the layers of stacked networks, against those of each network as a plain module."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from blobs import Blobs
from convolutions import Convolutions
from torch import nn

from g_pt.tasks import get_task
from g_pt.update_rules.base import Cost
from g_pt.update_rules.layer_moments import gradient_moments, input_moments
from g_pt.update_rules.problem import TaskProblem


def unfolded(layer: nn.Module, given: torch.Tensor) -> torch.Tensor:
    """Inputs (N, positions, n) with a 1 where there is a bias, by other means than the library's."""
    if isinstance(layer, nn.Linear):
        rows = given[:, None]
    elif isinstance(layer, nn.Conv1d):
        padded = F.pad(given, (2, 2))
        rows = torch.stack([padded[:, :, [i, i + 2, i + 4]].flatten(1) for i in range(given.shape[2])], dim=1)
    elif layer.padding == (0, 0):
        rows = given.flatten(2).transpose(1, 2)
    else:
        rows = F.unfold(F.pad(given, (1, 1, 1, 1), mode="circular"), (3, 2), stride=2).transpose(1, 2)
    return rows if layer.bias is None else torch.cat([rows, torch.ones(*rows.shape[:2], 1)], dim=2)


@pytest.mark.parametrize("task", [Convolutions(), get_task("digits")], ids=lambda task: task.name)
def test_moments_are_those_of_each_network_alone(task, subtests) -> None:
    params = task.layout.unflatten(task.init(2, torch.Generator().manual_seed(0)))
    problem = TaskProblem(task, torch.Generator().manual_seed(1), batch_size=32)
    inputs, outputs = problem.layer_inputs(params), problem.layer_gradients(params)
    assert problem.cost == Cost(losses=1, gradients=1)
    module, examples = task.network(), task.examples("train")
    module.load_state_dict({name: tensor[1] for name, tensor in params.items()})
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in inputs}
    for name, layer in module.named_modules():
        if name in seen:
            layer.register_forward_pre_hook(
                lambda layer, given, name=name: seen[name].append(unfolded(layer, given[0]))
            )
    module(examples.inputs[problem.examples()])
    for name, moment in inputs.items():
        with subtests.test(layer=name):
            wanted = sum(torch.einsum("npi,npj->ij", rows, rows) / 32 for rows in seen[name])
            torch.testing.assert_close(moment[1], wanted, rtol=1e-4, atol=1e-4)
            assert outputs[name].shape == (2, *2 * [len(module.get_submodule(name).weight)])
    assert next(iter(inputs.values())).stride(0) == 0  # the first layer sees the same in all networks


def test_gradients_at_outputs_make_the_fisher_information_of_a_linear_classifier() -> None:
    class Linear(type(get_task("digits"))):
        def network(self):
            return nn.Linear(64, 10)

    task = Linear()
    weight = 0.1 * torch.randn(1, 10, 64, generator=torch.Generator().manual_seed(0))
    params = {"weight": weight, "bias": torch.zeros(1, 10)}
    examples, generator = torch.arange(64), torch.Generator().manual_seed(0)
    drawn = torch.stack([gradient_moments(task, params, examples, generator)[""][0] for _ in range(100)])
    shares = (task.examples("train").inputs[:64] @ weight[0].T).softmax(dim=1)
    wanted = (shares.diag_embed() - shares[:, :, None] * shares[:, None]).mean(dim=0)  # E (p - y)(p - y)^T
    assert (drawn.mean(dim=0) - wanted).abs().max() < 4 * drawn.std(dim=0).max() / 10 < 0.02


def test_tasks_and_layers_that_are_not_known_are_named() -> None:
    class Grouped(Convolutions):
        def network(self):
            return nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    class Frozen(Blobs):
        def network(self):
            network = super().network()
            network[1].requires_grad_(False)
            network[3].bias.requires_grad_(False)
            return network

    class Unused(Blobs):
        def network(self):
            network = nn.Sequential(nn.Linear(3, 2), nn.Identity())
            network[1].linear = nn.Linear(3, 3)
            return network

    for task, message in (
        (Blobs(), r"but layer '1' is BatchNorm1d.*requires_grad=False, or take"),
        (Grouped(), r"without groups, but layer '0' is Conv2d.*groups=2"),
        (get_task("quadratics"), "'quadratics' is none: take a rule that needs gradients alone"),
        (Unused(), "layer '1.linear' is never called"),
    ):
        params = task.layout.unflatten(task.init(1, torch.Generator()))
        with pytest.raises(ValueError, match=message):
            input_moments(task, params, torch.arange(2))
    frozen = Frozen()
    params = frozen.layout.unflatten(frozen.init(1, torch.Generator()))
    found = input_moments(frozen, params, torch.arange(2))
    assert {name: moment.shape[1] for name, moment in found.items()} == {
        "0": 4,
        "3": 8,
    }  # a bias that stays is no input
