"""Rules that multiply gradients by damped inverses of second moments before an optimizer takes its step.

B = networks, n = size of a block. Importing this file imports no torch.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from g_pt.update_rules.base import Cost
from g_pt.update_rules.first_order import SGD, Momentum, each_network, not_negative, per_network
from g_pt.update_rules.gradient import GradientRule

if TYPE_CHECKING:
    from torch import Tensor

    from g_pt.tasks.base import Task
    from g_pt.update_rules.base import Problem, Tensors


class Curvature(NamedTuple):
    """Steps taken, mini-batches seen, running means of second moments (B, ..., n, n), and their damped inverses.

    What is the same in all networks is expanded from one matrix.
    """

    num_steps: int = 0
    num_seen: int = 0
    moments: Tensors = {}  # noqa: RUF012
    inverses: Tensors = {}  # noqa: RUF012


@dataclass(frozen=True)
class CurvatureRule(GradientRule):
    """What rules with damped inverses of second moments share.

    Where a moment of a network is not finite, the mean of earlier ones is kept; where an inverse is not, the earlier
    one; where there is none, the gradient is taken as it is. Each such step counts as one of `Cost.fallbacks`.
    """

    optimizer: SGD = field(default_factory=Momentum)
    """Takes the step, with momentum and with weight decay that no curvature divides."""
    damping: float | tuple[float, ...] = 0.1
    """Added to the diagonal of second moments, for all networks or for each of them."""
    decay: float = 0.95
    """Decay of the mean of second moments."""
    inverse_every: int = 1
    """Steps from one inverse to the next."""
    seen_steps: int = 1
    """Of these steps, the last ones, whose mini-batches the moments are measured on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "damping", "decay")
        if not 1 <= self.seen_steps <= self.inverse_every:
            raise ValueError(
                f"seen_steps must lie between 1 and inverse_every = {self.inverse_every}, got {self.seen_steps}"
            )

    @abstractmethod
    def moments(self, params: Tensors, grads: Tensors, problem: Problem) -> Tensors:
        """Second moments of one mini-batch: (B, ..., n, n) each."""

    @abstractmethod
    def directions(self, grads: Tensors, inverses: Tensors) -> Tensors:
        """Gradients times the inverses."""

    def dampings(self, moments: Tensors) -> dict[str, float | Tensor]:
        """Damping of each moment, of all networks or (B,)."""
        return {name: each_network(self.damping, moment) for name, moment in moments.items()}

    def unknown_curvature(self, trained: Tensors, task: Task) -> Curvature:
        """See `GradientRule`."""
        return Curvature()

    def preconditioned(
        self, params: Tensors, grads: Tensors, curvature: Curvature, problem: Problem
    ) -> tuple[Tensors, Curvature]:
        """See `GradientRule`."""
        step, seen, moments, inverses = curvature
        failed: Any = False  # (B,)
        if -step % self.inverse_every < self.seen_steps:  # an inverse is due in so many steps
            share = (1 - self.decay) / (1 - self.decay ** (seen + 1)) if self.decay else 1.0  # unbiased, as Adam's
            found, seen = self.moments(params, grads, problem), seen + 1
            moments = {name: running_mean(moments.get(name), new, share) for name, new in found.items()}
            failed = any_of(not_finite(new) for new in found.values())
        if step % self.inverse_every == 0:
            damping = self.dampings(moments)
            made = {n: damped_inverse(m, damping[n], inverses.get(n)) for n, m in moments.items()}
            inverses = {name: inverse for name, (inverse, _) in made.items()}
            failed = any_of([failed, *(wrong for _, wrong in made.values())])
        if failed is not False:
            problem.cost += Cost(fallbacks=failed.float().mean().item())
        return self.directions(grads, inverses), Curvature(step + 1, seen, moments, inverses)


def once(moment: Tensor) -> Tensor:
    """The one matrix (1, ...) that all networks share, where a tensor (B, ...) is expanded from it."""
    return moment[:1] if moment.stride(0) == 0 else moment


def not_finite(moment: Tensor) -> Tensor:
    """Networks with NaN or infinity: (B,)."""
    return (~once(moment).flatten(1).isfinite().all(dim=1)).expand(len(moment))


def any_of(found: Any) -> Any:
    """Networks for which any is true."""
    result: Any = False
    for each in found:
        result = each | result
    return result


def running_mean(mean: Tensor | None, new: Tensor, share: float) -> Tensor:
    """`mean` moved to `new` by a share; `mean`, or the identity, where `new` is not finite."""
    import torch

    found, wrong = once(new), once(not_finite(new)).view(-1, *(1,) * (new.dim() - 1))
    if mean is None:
        kept = torch.eye(new.shape[-1], dtype=new.dtype, device=new.device)
    else:
        kept = once(mean)
        found = kept.lerp(found, share)
    return torch.where(wrong, kept, found).expand(new.shape)


def damped_inverse(moment: Tensor, damping: float | Tensor, earlier: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(M + damping I)^-1 of second moments (B, ..., n, n), and the networks (B,) that have the earlier one instead.

    Args:
        moment: positive semi-definite.
        damping: of all networks or (B,).
        earlier: taken where there is no finite inverse; the identity where not given.
    """
    import torch

    eye = torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
    own = once(moment) if isinstance(damping, int | float) else moment
    factor, minor = torch.linalg.cholesky_ex(own + per_network(damping, own) * eye)
    inverse = torch.cholesky_inverse(factor).expand(moment.shape)
    wrong = not_finite(inverse) | (minor != 0).view(len(own), -1).any(dim=1)  # a minor that is not positive
    if not wrong.any():
        return inverse, wrong
    kept = eye if earlier is None else earlier
    return torch.where(wrong.view(-1, *(1,) * (moment.dim() - 1)), kept, inverse), wrong


def times(rows: Tensor, inverse: Tensor) -> Tensor:
    """Rows (B, ..., n) times symmetric inverses (B, n, n): one product for all where they share one matrix."""
    return rows @ (inverse[0] if inverse.stride(0) == 0 else inverse)
