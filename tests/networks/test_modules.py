"""A user's module in, an updated module out: `pipe.update_module`."""

import copy

import pytest
import torch
from builders import build_pipeline, randomise
from torch import nn

from g_pt.networks.modules import module_params, write_module
from g_pt.networks.parameters import ParameterLayout
from g_pt.tasks import get_task, registry
from g_pt.tasks.mlp import mlp


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_the_update_is_the_pipelines_and_the_module_stays(random_pipeline):
    module = mlp((64, 16, 10)).train()
    module.fc1.weight.requires_grad_(False)
    before = state(module)
    updated = random_pipeline.update_module(module, 0.1, generator=seeded())
    expected = random_pipeline(module_params(module, random_pipeline.layout), 0.1, generator=seeded()).params[0]
    assert torch.equal(module_params(updated, random_pipeline.layout), expected)
    assert not torch.equal(updated.fc2.weight, module.fc2.weight)
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())
    assert type(updated) is type(module)
    assert updated.training
    assert [p.requires_grad for p in updated.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in updated.parameters())


def test_in_place_writes_into_the_same_tensors(random_pipeline):
    module = mlp((64, 16, 10)).eval()
    parameters = list(module.parameters())
    before = state(module)
    assert random_pipeline.update_module(module, 0.1, in_place=True) is module
    assert all(a is b for a, b in zip(parameters, module.parameters(), strict=True)), "an optimizer still holds them"
    assert not any(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())
    assert not module.training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_are_kept(random_pipeline, dtype):
    module = mlp((64, 16, 10)).to(dtype)
    updated = random_pipeline.update_module(module, 0.1, generator=seeded())
    assert {p.dtype for p in updated.parameters()} == {dtype}
    expected = random_pipeline(module_params(module, random_pipeline.layout), 0.1, generator=seeded()).params[0]
    assert torch.equal(torch.cat([p.detach().flatten() for p in updated.parameters()]), expected.to(dtype))


def test_the_devices_of_a_module_are_kept(random_pipeline):
    module = mlp((64, 16, 10)).to("meta")
    with pytest.raises((ValueError, NotImplementedError)):
        random_pipeline.update_module(module, 0.1, 2.3)


class WithBuffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.register_buffer("counter", torch.tensor(7))

    def forward(self, x):
        return self.norm(self.layer(x))


def test_buffers_are_written_and_counters_are_not():
    module = WithBuffers()
    layout = ParameterLayout.from_module(module)
    write_module(module, torch.arange(layout.num_params) + 1.0, layout)
    assert torch.equal(module_params(module, layout), torch.arange(layout.num_params) + 1.0)
    assert module.norm.running_var.min() > 1
    assert module.counter == 7
    assert module.norm.num_batches_tracked == 0


def test_the_vector_is_a_copy():
    module = mlp((2, 3, 1))
    params = module_params(module, ParameterLayout.from_module(module))
    params.zero_()
    assert module.fc1.weight.abs().sum() > 0


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (
            mlp((64, 15, 10)),
            r"Sequential is not a network of this model: tensor 'fc1.weight' must have .* \(16, 64\)",
        ),
        (mlp((64, 16, 16, 10)), "tensor 'fc2.weight' must have shape"),
        (nn.Linear(64, 10), r"Linear is not .* tensor 'fc1.weight' of shape \(16, 64\) is wanted but missing"),
    ],
)
def test_another_architecture_is_refused_by_its_first_difference(random_pipeline, module, said):
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=said):
        random_pipeline.update_module(module, 0.1, in_place=True)
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())


def test_nan_is_refused_by_the_tensors_name(random_pipeline):
    module = mlp((64, 16, 10))
    with torch.no_grad():
        module.fc2.bias[3] = float("nan")
    with pytest.raises(ValueError, match=r"'fc2.bias' holds NaN"):
        random_pipeline.update_module(module, 0.1)


def test_a_pipeline_without_its_task_wants_the_starting_metric(monkeypatch):
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    pipeline = build_pipeline(get_task("moons"))
    randomise(pipeline.transformer)
    module = get_task("moons").network()
    measured = get_task("moons").evaluate(module_params(module, pipeline.layout)[None], "validation")["loss"].item()
    known = pipeline.update_module(module, 0.1, generator=seeded())
    registry._TASKS.pop("moons")
    pipeline.__dict__.pop("task")  # as in a process that has never heard of it
    with pytest.raises(ValueError, match=r"starting loss cannot be measured: there is no task 'moons'.*pass it"):
        pipeline.update_module(module, 0.1)
    given = pipeline.update_module(module, 0.1, measured, generator=seeded())
    for name, tensor in known.state_dict().items():
        torch.testing.assert_close(given.state_dict()[name], tensor)


def test_the_bundled_model_improves_a_users_module(digits):
    from g_pt import ParameterUpdatePipeline

    pipe = ParameterUpdatePipeline.from_pretrained("digits-loss")
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    updated = pipe.update_module(mlp((64, 16, 10)), prompted_metric=0.2, generator=seeded())
    loss = digits.evaluate(module_params(updated, pipe.layout)[None], "test")["loss"].item()
    assert 0.1 < loss < 0.35
