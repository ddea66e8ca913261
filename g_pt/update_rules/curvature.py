"""Rules that multiply gradients by damped inverses of second moments before an optimizer takes its step.

B = networks, n = size of a block. Importing this file imports no torch.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from g_pt.update_rules.base import Cost
from g_pt.update_rules.first_order import SGD, each_network, not_negative, per_network
from g_pt.update_rules.gradient import GradientRule

if TYPE_CHECKING:
    from torch import Tensor

    from g_pt.tasks.base import Task
    from g_pt.update_rules.base import Problem, Tensors


class Curvature(NamedTuple):
    """Steps taken, mini-batches seen, running means of second moments (B, ..., n, n), and their damped inverses.

    What is the same in all networks is expanded from one matrix.
    """

    num_steps: int
    num_seen: int
    moments: Tensors
    inverses: Tensors


@dataclass(frozen=True)
class CurvatureRule(GradientRule):
    """What rules with damped inverses of second moments share.

    Where a moment of a network is not finite, the mean of earlier ones is kept; where an inverse is not, the earlier
    one; where there is none, the gradient is taken as it is. Each such step counts as one of `Cost.fallbacks`.
    """

    optimizer: SGD = field(default_factory=SGD)
    """Takes the step, with momentum and with weight decay that no curvature divides."""
    damping: float | tuple[float, ...] = 1.0
    """Added to the diagonal of second moments, for all networks or for each of them."""
    decay: float = 0.95
    """Decay of the mean of second moments."""
    inverse_every: int = 10
    """Steps from one inverse to the next."""
    seen_steps: int = 1
    """Of these steps, the last ones, whose mini-batches the moments are measured on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "damping")
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie between 0 and 1, and below 1, got {self.decay}")
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
        return Curvature(0, 0, {}, {})

    def preconditioned(
        self, params: Tensors, grads: Tensors, curvature: Curvature, problem: Problem
    ) -> tuple[Tensors, Curvature]:
        """See `GradientRule`."""
        step, seen, moments, inverses = curvature
        failed: Any = False  # (B,)
        if -step % self.inverse_every < self.seen_steps:  # an inverse is due in so many steps
            share = (1 - self.decay) / (1 - self.decay ** (seen + 1))  # unbiased, as Adam's means
            for name, new in self.moments(params, grads, problem).items():
                moments[name], wrong = running_mean(moments.get(name), new, share)
                failed, seen = failed | wrong, curvature.num_seen + 1
        if step % self.inverse_every == 0:
            for name, damping in self.dampings(moments).items():
                inverses[name], wrong = damped_inverse(moments[name], damping, inverses.get(name))
                failed = failed | wrong
        if failed is not False:
            problem.cost += Cost(fallbacks=failed.float().mean().item())
        return self.directions(grads, inverses), Curvature(step + 1, seen, moments, inverses)


def once(moment: Tensor) -> Tensor:
    """The one matrix (1, ...) that all networks share, where a tensor (B, ...) is expanded from it."""
    return moment[:1] if moment.stride(0) == 0 else moment


def not_finite(moment: Tensor) -> Tensor:
    """Networks with NaN or infinity: (B,)."""
    return (~once(moment).flatten(1).isfinite().all(dim=1)).expand(len(moment))


def where(networks: Tensor, then: Tensor, other: Tensor) -> Tensor:
    """`then` (B, ...) or (n, n) for some networks (B,), `other` (B, ..., n, n) for the rest."""
    import torch

    return torch.where(networks.view(-1, *(1,) * (other.dim() - 1)), then, other) if networks.any() else other


def running_mean(mean: Tensor | None, new: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """`mean` moved to `new` by a share, and the networks (B,) whose `new` is not finite: they keep their mean.

    Those that have none yet get the identity.
    """
    import torch

    wrong, eye = not_finite(new), torch.eye(new.shape[-1], dtype=new.dtype, device=new.device)
    moved = once(new) if mean is None else once(mean).lerp(once(new), share)
    return where(once(wrong), eye if mean is None else once(mean), moved).expand(new.shape), wrong


def damped_inverse(moment: Tensor, damping: float | Tensor, earlier: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(M + damping I)^-1 of second moments M (B, ..., n, n), and the networks (B,) where there is no finite one.

    These have the earlier inverse, or the identity. `damping` is that of all networks or (B,).
    """
    import torch

    eye = torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
    own = once(moment) if isinstance(damping, int | float) else moment
    factor, minor = torch.linalg.cholesky_ex(own + per_network(damping, own) * eye)
    singular = (minor != 0)[..., None, None]  # for which the next line would raise
    inverse = torch.cholesky_inverse(torch.where(singular, eye, factor)).expand(moment.shape)
    wrong = not_finite(inverse) | singular.view(len(own), -1).any(dim=1)
    return where(wrong, eye if earlier is None else earlier, inverse), wrong


def times(rows: Tensor, inverse: Tensor) -> Tensor:
    """Rows (B, ..., n) times symmetric inverses (B, n, n): one product for all where they share one matrix."""
    return rows @ (inverse[0] if inverse.stride(0) == 0 else inverse)
