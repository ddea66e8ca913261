"""M-FAC against dense solves: any vector, one in the window, the diagonal, and a window whose oldest is replaced."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from g_pt.tasks import get_task
from g_pt.update_rules.m_fac import MFac, Window, inverse_diagonal, inverse_times, replace_oldest
from g_pt.update_rules.problem import follow


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def fisher(gradients: Tensor, damping: float) -> Tensor:
    """F of one window (m, P), densely."""
    return damping * torch.eye(gradients.shape[1], dtype=gradients.dtype) + gradients.T @ gradients / len(gradients)


def test_products_with_the_inverse_are_those_of_a_dense_solve(subtests) -> None:
    for dtype, allowed in ((torch.float64, 1e-9), (torch.float32, 2e-3)):
        gradients, vectors = drawn(2, 32, 400, dtype=dtype), drawn(2, 400, dtype=dtype)
        products, diagonal = inverse_times(gradients, vectors, 1e-3), inverse_diagonal(gradients, 1e-3)
        for i in range(2):
            dense = fisher(gradients[i].double(), 1e-3)
            with subtests.test(dtype=str(dtype), network=i):
                solved = torch.linalg.solve(dense, vectors[i].double())
                assert (products[i].double() - solved).norm() / solved.norm() < allowed
                wanted = dense.inverse().diagonal()
                assert (diagonal[i].double() - wanted).norm() / wanted.norm() < allowed


def test_a_window_whose_oldest_is_replaced_is_one_made_anew(subtests) -> None:
    for dtype, allowed in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        m, stream = 5, drawn(12, 2, 50, dtype=dtype)
        window = Window(torch.zeros(2, m, 50, dtype=dtype), torch.zeros(2, m, m, dtype=dtype))
        for step, grad in enumerate(stream):
            moved, wrong, window = replace_oldest(window, grad.clone(), 1e-3)
            held = stream[max(0, step + 1 - m) : step + 1].transpose(0, 1).double()
            padded = torch.cat([held, torch.zeros(2, m - held.shape[1], 50).double()], dim=1)
            wanted = inverse_times(padded, grad.double(), 1e-3)
            with subtests.test(dtype=str(dtype), step=step):  # float32 too: nothing cancels
                assert (moved.double() - wanted).norm() / wanted.norm() < allowed
                assert not wrong.any()


def test_small_windows_by_hand() -> None:
    vectors = drawn(1, 6)
    torch.testing.assert_close(inverse_times(torch.zeros(1, 3, 6).double(), vectors, 0.5), vectors / 0.5)
    grad = torch.tensor([[3.0, 4.0]]).double()  # F = 0.5 I + g g^T, and g is an eigenvector of 0.5 + 25
    window = Window(torch.zeros(1, 1, 2).double(), torch.zeros(1, 1, 1).double())
    torch.testing.assert_close(replace_oldest(window, grad, 0.5)[0], grad / 25.5)
    torch.testing.assert_close(inverse_times(grad[None], torch.tensor([[-4.0, 3.0]]).double(), 0.5)[0],
                               torch.tensor([-8.0, 6.0]).double())  # fmt: skip


def test_what_is_not_finite_stays_out_of_the_window() -> None:
    window = Window(torch.zeros(2, 3, 4), torch.zeros(2, 3, 3))
    grad = torch.ones(2, 4)
    grad[1] = 1e30  # its product with itself is none
    moved, wrong, after = replace_oldest(window, grad, 0.1)
    assert wrong.tolist() == [False, True]
    assert torch.equal(moved[1], grad[1])
    assert after.gradients.isfinite().all()
    assert after.products.isfinite().all()
    _, wrong, _ = replace_oldest(after, torch.ones(2, 4), 0.1)
    assert not wrong.any()


def test_a_window_that_does_not_fit_is_refused_before_it_is_made() -> None:
    task = get_task("digits")
    with pytest.raises(ValueError, match=r"a window of 1,000,000 gradients with 1,210 parameters .*of memory, this"):
        next(follow(MFac(window=1_000_000), task, task.init(2, torch.Generator()), torch.Generator(), steps=[1]))
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        MFac(window=0)
