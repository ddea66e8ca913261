import math

import pytest
import torch

from g_pt.evaluation.latents import latent_loop, slerp


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_arc_begins_and_ends_at_its_ends() -> None:
    first, second = noise(3, 50), noise(3, 50, seed=1)
    torch.testing.assert_close(slerp(first, second, 0.0), first)
    torch.testing.assert_close(slerp(first, second, 1.0), second)


def test_half_of_a_right_angle_by_hand() -> None:
    middle = slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), 0.5)
    torch.testing.assert_close(middle, torch.tensor([math.sqrt(2), math.sqrt(2)]))


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8])
def test_the_norm_is_kept_where_a_straight_line_loses_it(fraction: float) -> None:
    first, second = (torch.nn.functional.normalize(noise(1000, seed=s), dim=0) for s in (0, 1))
    assert slerp(first, second, fraction).norm().item() == pytest.approx(1, abs=1e-5)
    assert torch.lerp(first, second, fraction).norm() < 0.95


def test_equal_ends_are_a_point() -> None:
    same = noise(20)
    torch.testing.assert_close(slerp(same, same, 0.3), same)


def test_a_loop_passes_its_anchors_in_even_steps_and_closes() -> None:
    loop = latent_loop(3, 8, 400, torch.Generator().manual_seed(0))
    assert loop.shape == (24, 400)
    torch.testing.assert_close(loop[::8], noise(3, 400))
    assert (loop.norm(dim=1) / math.sqrt(400) - 1).abs().max() < 0.1
    strides = (loop - loop.roll(-1, dims=0)).norm(dim=1)  # the last one leads back to the first
    assert strides.max() / strides.min() < 1.2
    with pytest.raises(ValueError, match="at least 2 anchors"):
        latent_loop(1, 8, 4, torch.Generator())
