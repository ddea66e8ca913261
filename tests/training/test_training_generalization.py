import pytest
import torch

from g_pt.training.generalization import GeneralizationGap


def test_a_straight_line_is_found_and_followed_beyond_the_data(generator):
    validation = torch.rand(400, generator=generator) * 3 - 2
    gap = GeneralizationGap.fit(validation, 1.5 * validation - 0.4)
    asked = torch.tensor([-4.0, -2.0, 0.3, 1.0, 3.0])
    torch.testing.assert_close(gap(asked), 1.5 * asked - 0.4, rtol=1e-4, atol=1e-4)


def test_noise_is_averaged_out(generator):
    validation = torch.rand(4000, generator=generator) * 3
    training = 2 * validation + 0.3 * torch.randn(4000, generator=generator)
    gap = GeneralizationGap.fit(validation, training)
    asked = torch.linspace(0.2, 2.8, 50)
    assert (gap(asked) - 2 * asked).abs().max() < 0.15


def test_a_better_prompt_never_asks_for_a_worse_training_metric(generator):
    validation, training = torch.rand(2, 300, generator=generator)
    gap = GeneralizationGap.fit(validation, training)
    assert (gap(torch.linspace(-1, 2, 200)).diff() >= -1e-6).all()


def test_any_shape_and_repeated_values():
    gap = GeneralizationGap.fit(torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([0.0, 0.2, 0.4, 2.2]), num_knots=4)
    assert gap(torch.zeros(2, 3)).shape == (2, 3)
    assert gap(torch.tensor([1.0])).item() == pytest.approx(2.2)


def test_networks_that_are_all_alike_are_refused():
    with pytest.raises(ValueError, match="all 5 have the same"):
        GeneralizationGap.fit(torch.ones(5), torch.ones(5))
