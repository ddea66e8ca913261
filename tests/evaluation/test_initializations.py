"""Initialisations have the variance that their papers say."""

import math

import pytest
import torch
from torch import nn

from g_pt.evaluation.initializations import INITIALIZATIONS, layers, reset_layer
from g_pt.tasks import get_task

TASK = get_task("digits")  # 64-16-10
FAN = {"fc1": (64, 16), "fc2": (16, 10)}
VARIANCES = {
    "the task's own": lambda i, o: 1 / (3 * i),  # uniform in ±1/sqrt(fan_in)
    "Xavier normal": lambda i, o: 2 / (i + o),
    "Xavier uniform": lambda i, o: 2 / (i + o),
    "Kaiming normal, fan-in": lambda i, o: 2 / i,
    "Kaiming uniform, fan-in": lambda i, o: 2 / i,
    "Kaiming normal, fan-out": lambda i, o: 2 / o,
    "Kaiming uniform, fan-out": lambda i, o: 2 / o,
    "orthogonal": lambda i, o: 1 / max(i, o),
    "own, times 0.25": lambda i, o: 0.25**2 / (3 * i),
    "own, times 0.5": lambda i, o: 0.5**2 / (3 * i),
    "own, times 2": lambda i, o: 2**2 / (3 * i),
    "own, times 4": lambda i, o: 4**2 / (3 * i),
}


def drawn(name: str, num: int = 300) -> dict[str, torch.Tensor]:
    params = INITIALIZATIONS[name](TASK, num, torch.Generator().manual_seed(0))
    assert params.shape == (num, TASK.layout.num_params)
    return TASK.layout.unflatten(params)


def test_weights_have_the_right_variance_and_mean_zero(subtests: pytest.Subtests) -> None:
    for name in INITIALIZATIONS:
        with subtests.test(name):
            tensors = drawn(name)
            for layer, (fan_in, fan_out) in FAN.items():
                weights = tensors[f"{layer}.weight"]
                variance = VARIANCES[name](fan_in, fan_out)
                assert weights.var().item() == pytest.approx(variance, rel=0.03)
                assert abs(weights.mean().item()) < 0.03 * math.sqrt(variance)
                biases = tensors[f"{layer}.bias"]
                if "own" in name:
                    assert biases.var().item() == pytest.approx(variance, rel=0.1)
                else:
                    assert biases.abs().max() == 0


def test_uniform_ones_are_bounded_and_orthogonal_ones_orthogonal() -> None:
    bound = math.sqrt(6 / 64)
    assert drawn("Kaiming uniform, fan-in", 20)["fc1.weight"].abs().max().item() == pytest.approx(bound, rel=0.01)
    weights = drawn("orthogonal", 3)["fc1.weight"]  # 16 x 64
    torch.testing.assert_close(weights @ weights.transpose(1, 2), torch.eye(16).expand(3, -1, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["Xavier normal", "own, times 2"])
def test_networks_differ_and_a_seed_gives_them_again(name: str) -> None:
    first, again = (INITIALIZATIONS[name](TASK, 3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert (first[0] - first[1]).norm() > 0.1


def test_a_reset_layer_is_fresh_and_the_others_stay() -> None:
    trained = torch.full((4, TASK.layout.num_params), 7.0)
    tensors = TASK.layout.unflatten(reset_layer(TASK, trained, "fc1", torch.Generator().manual_seed(0)))
    assert (tensors["fc2.weight"] == 7).all()
    assert (tensors["fc2.bias"] == 7).all()
    assert tensors["fc1.weight"].abs().max() <= 1 / 8
    assert tensors["fc1.bias"].abs().max() <= 1 / 8
    assert (trained == 7).all()
    with pytest.raises(ValueError, match=r"no layer 'fc9'; it has \['fc1', 'fc2'\]"):
        reset_layer(TASK, trained, "fc9", torch.Generator())


def test_normalisation_layers_are_no_layers_to_draw_anew() -> None:
    class Normalised(type(TASK)):
        def network(self) -> nn.Module:
            return nn.Sequential(nn.Linear(64, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 10))

    assert layers(Normalised()) == {"0": ["0.weight", "0.bias"], "3": ["3.weight", "3.bias"]}
