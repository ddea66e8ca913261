import math

import pytest
import torch

from g_pt.networks.metrics import TRANSFORMS, Metric


@pytest.mark.parametrize(
    ("transform", "inverse"), [("identity", lambda y: y), ("log", torch.exp), ("log1p", torch.expm1)]
)
def test_transforms_are_what_they_are_called(transform, inverse):
    values = torch.tensor([0.05, 0.1, 2.2, 90.0])
    embedded = Metric("m", "", transform=transform).embedded(values)
    torch.testing.assert_close(inverse(embedded), values)


@pytest.mark.parametrize("transform", sorted(TRANSFORMS))
def test_unembedded_inverts_embedded(transform):
    metric, values = Metric("m", "", transform=transform), torch.tensor([1e-3, 0.05, 0.1, 2.2, 90.0])
    torch.testing.assert_close(metric.unembedded(metric.embedded(values)), values)
    torch.testing.assert_close(metric.embedded(metric.unembedded(values[:-1])), values[:-1])


@pytest.mark.parametrize("transform", sorted(TRANSFORMS))
def test_transforms_keep_the_order_and_stay_finite_at_zero(transform):
    embedded = Metric("m", "", transform=transform).embedded(torch.tensor([0.0, 1e-3, 1.0, 100.0]))
    assert embedded.isfinite().all()
    assert (embedded.diff() > 0).all()


def test_equal_ratios_are_equal_distances_under_log():
    embedded = Metric("loss", "nats", transform="log").embedded(torch.tensor([0.1, 0.2, 1.0, 2.0]))
    assert embedded[1] - embedded[0] == pytest.approx(math.log(2), abs=1e-6)
    assert embedded[3] - embedded[2] == pytest.approx(math.log(2), abs=1e-6)


def test_embedded_values_are_float32_whatever_comes():
    for dtype in (torch.float16, torch.float64, torch.int64):
        assert Metric("m", "").embedded(torch.ones(2, dtype=dtype)).dtype == torch.float32


def test_best_follows_the_direction():
    values = torch.tensor([[3.0, 1.0, 2.0], [5.0, 7.0, 6.0]])
    assert Metric("loss", "nats").best(values).tolist() == [1, 5]
    assert Metric("return", "", minimize=False).best(values).tolist() == [3, 7]


def test_json_round_trip():
    metric = Metric("return", unit="points", minimize=False, transform="log1p")
    assert Metric(**metric.to_json()) == metric


def test_an_unknown_transform_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"\['identity', 'log', 'log1p'\], got 'sqrt'"):
        Metric("m", "", transform="sqrt")
