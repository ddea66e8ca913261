"""M-FAC: products with the inverse of the empirical Fisher information of a window of gradients (Frantar et al. 2021).

    F = damping I + 1/m sum over i of g_i g_i^T,   K = G G^T,   G = (g_1, ..., g_m)^T

B = networks, m = gradients in the window, P = parameters per network. Importing this file imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from g_pt.command_line.output import check_fits
from g_pt.files.config import check_at_least
from g_pt.update_rules.base import Cost
from g_pt.update_rules.first_order import SGD, each_network, not_negative, per_network
from g_pt.update_rules.gradient import GradientRule

if TYPE_CHECKING:
    from torch import Tensor

    from g_pt.tasks.base import Task
    from g_pt.update_rules.base import Problem, Tensors


class Window(NamedTuple):
    """The last m gradients (B, m, P), their products K (B, m, m), and how many there were; zeros for those to come."""

    gradients: Tensor
    products: Tensor
    num_steps: int = 0


@dataclass(frozen=True)
class MFac(GradientRule):
    """M-FAC: w <- w - rate F^-1 g, with F of a window of gradients.

    The state holds the window: m (P + m) numbers for each network. Where F of a network cannot be inverted because it
    is not finite, its gradient is taken as it is and left out of the window, which counts as one of `Cost.fallbacks`.
    """

    optimizer: SGD = field(default_factory=SGD)
    """Takes the step, with momentum and with weight decay that no curvature divides."""
    learning_rate: float | tuple[float, ...] = 0.1
    damping: float | tuple[float, ...] = 0.1
    """Of F, for all networks or for each of them."""
    window: int = 32
    """Gradients m that F is made of."""
    title: ClassVar = "M-FAC"
    tuned: ClassVar = {"learning_rate": (3e-3, 3.0), "damping": (3e-3, 3.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "damping")
        check_at_least(self, window=1)

    def unknown_curvature(self, trained: Tensors, task: Task) -> Window:
        """See `GradientRule`; a window that does not fit into memory is refused before any of it is made."""
        like, m = next(iter(trained.values())), self.window
        size, num = sum(tensor[0].numel() for tensor in trained.values()), len(like)
        check_fits(
            num * m * (size + 2 * m) * like.element_size(),
            f"a window of {m:,} gradients with {size:,} parameters (networks at once: {num:,})",
        )
        return Window(like.new_zeros(num, m, size), like.new_zeros(num, m, m))

    def preconditioned(
        self, params: Tensors, grads: Tensors, curvature: Window, problem: Problem
    ) -> tuple[Tensors, Window]:
        """See `GradientRule`."""
        import torch

        grad = torch.cat([grad.flatten(1) for grad in grads.values()], dim=1)
        moved, wrong, window = replace_oldest(curvature, grad, each_network(self.damping, grad))
        problem.cost += Cost(fallbacks=wrong.float().mean().item())
        parts = moved.split([grad[0].numel() for grad in grads.values()], dim=1)
        return {
            name: part.reshape(grads[name].shape).contiguous() for name, part in zip(grads, parts, strict=True)
        }, window


def replace_oldest(window: Window, grad: Tensor, damping: float | Tensor) -> tuple[Tensor, Tensor, Window]:
    """Put a gradient (B, P) in place of the oldest one, in the window's own memory; `damping` may be (B,).

    Returns F^-1 times this gradient (B, P), or the gradient itself where that is not finite; where it is not (B,); the
    window after.
    """
    rows, products, num_steps = window
    place = num_steps % rows.shape[1]
    rows[:, place] = grad
    with_all = (rows @ grad[..., None])[..., 0]  # (B, m)
    products[:, place] = products[:, :, place] = with_all
    # of one that is in the window itself: F^-1 g_i = m G^T (K + m damping I)^-1 e_i, in which nothing cancels
    factor, minor = factorised(products, damping)
    unit = with_all.new_zeros(with_all.shape)
    unit[:, place] = rows.shape[1]
    shares = unit[..., None].cholesky_solve(factor)  # (B, m, 1)
    moved = (shares.transpose(1, 2) @ rows)[:, 0]
    wrong = (minor != 0) | ~moved.isfinite().all(dim=1)
    if wrong.any():
        moved = grad.where(wrong[:, None], moved)
        rows[wrong, place] = 0
        products[wrong, place] = 0
        products[wrong, :, place] = 0
    return moved, wrong, Window(rows, products, num_steps + 1)


def factorised(products: Tensor, damping: float | Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factor of K + m damping I (B, m, m), and the first minor that is not positive (B,), 0 where all are."""
    import torch

    m = products.shape[-1]
    eye = torch.eye(m, dtype=products.dtype, device=products.device)
    factor, minor = torch.linalg.cholesky_ex(products + m * per_network(damping, products) * eye)
    return factor, minor


def inverse_times(gradients: Tensor, vectors: Tensor, damping: float | Tensor) -> Tensor:
    """F^-1 x by Woodbury's identity: gradients (B, m, P) and vectors x (B, P) to (B, P).

    F^-1 x = (x - G^T (K + m damping I)^-1 G x) / damping
    """
    factor, _ = factorised(gradients @ gradients.transpose(1, 2), damping)
    shares = (gradients @ vectors[..., None]).cholesky_solve(factor)  # (B, m, 1)
    return (vectors - (shares.transpose(1, 2) @ gradients)[:, 0]) / per_network(damping, vectors)


def inverse_diagonal(gradients: Tensor, damping: float | Tensor) -> Tensor:
    """Diagonal of F^-1, by which pruning scores w^2 / (2 [F^-1]_ii): gradients (B, m, P) to (B, P)."""
    import torch

    factor, _ = factorised(gradients @ gradients.transpose(1, 2), damping)
    explained = torch.linalg.solve_triangular(factor, gradients, upper=False).square().sum(dim=1)
    return (1 - explained) / per_network(damping, explained)
