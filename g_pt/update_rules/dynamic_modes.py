"""Dynamic mode decomposition: what a trajectory does next, read off its last snapshots (Schmid 2010; Tu et al. 2014).

    x_(k+1) = A x_k,   X_1 = (x_0 .. x_(h-1)) = U S V^T,   U^T A U = U^T X_2 V S^-1 = W diag(eigenvalues) W^-1

B = networks, P = parameters per network, h + 1 = snapshots, r = modes. Importing this file imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from g_pt.files.config import check_at_least
from g_pt.update_rules.base import Cost
from g_pt.update_rules.lookahead import WrappedRule, moving_names

if TYPE_CHECKING:
    from torch import Tensor

    from g_pt.tasks.base import Task
    from g_pt.update_rules.base import Problem, Tensors


class Modes(NamedTuple):
    """Modes of a trajectory, the largest at its last snapshot first.

    Attributes:
        eigenvalues: (B, r) complex, growth and rotation of each mode in a step; 0 where the trajectory has fewer.
        modes: (B, P, r) complex, with their amplitudes: their sum is the last snapshot, in the span of the others.
    """

    eigenvalues: Tensor
    modes: Tensor

    def sum_ahead(self, ahead: int) -> Tensor:
        """Sum over the next so many snapshots: (B, P)."""
        powers = [self.eigenvalues**k for k in range(1, ahead + 1)]
        return (self.modes @ sum(powers)[..., None])[..., 0].real  # type: ignore[index]


def dynamic_modes(snapshots: Tensor, rank: int, most_growth: float | None = None) -> Modes:
    """Decompose finite trajectories (B, h + 1, P) into at most `rank` modes, which is at most h.

    Differentiable where singular values and eigenvalues differ. Eigenvalues of a modulus above `most_growth` are
    shortened to it.
    """
    import torch

    before, after = snapshots[:, :-1].transpose(1, 2), snapshots[:, 1:].transpose(1, 2)  # (B, P, h)
    left, values, right = torch.linalg.svd(before, full_matrices=False)
    u, s, v = left[..., :rank], values[:, :rank], right[:, :rank].transpose(1, 2)
    known = s > s[:, :1] * (torch.finfo(s.dtype).eps * max(before.shape[1:]))
    inverse = known / torch.where(known, s, 1.0)  # (B, r)
    reduced = u.transpose(1, 2) @ after @ (v * inverse[:, None])  # (B, r, r)
    eigenvalues, w = torch.linalg.eig(reduced)
    if most_growth is not None:
        eigenvalues = eigenvalues / (eigenvalues.abs() / most_growth).clamp(min=1)
    last = (u.transpose(1, 2) @ snapshots[:, -1, :, None]).to(w)  # (B, r, 1)
    modes = u.to(w) @ (w * torch.linalg.solve(w, last).transpose(1, 2))  # (B, P, r)
    order = modes.abs().square().sum(dim=1).argsort(dim=1, descending=True)
    return Modes(eigenvalues.gather(1, order), modes.gather(2, order[:, None].expand_as(modes)))


def mode_features(snapshots: Tensor, rank: int, ahead: int = 1) -> Tensor:
    """What modes say about each parameter, as inputs of a learned optimizer: (B, h + 1, P) to (B, P, 2 r + 1).

    Real and imaginary parts of the modes of a trajectory's steps, the largest first, then the sum of the next steps.
    """
    import torch

    found = dynamic_modes(snapshots.diff(dim=1), rank, most_growth=1.0)
    return torch.cat([found.modes.real, found.modes.imag, found.sum_ahead(ahead)[..., None]], dim=2)


class Trajectory(NamedTuple):
    """Steps taken since the last jump, the snapshots so far (B, h + 2, P), and the state of the inner rule."""

    num_steps: int
    snapshots: Tensor
    inner: Any


@dataclass(frozen=True)
class DynamicModes(WrappedRule):
    """Some steps of a rule, then a jump to where the modes of its trajectory lead, which asks for no gradient.

    Modes are those of the differences between snapshots, which have the eigenvalues of the snapshots themselves and no
    constant part; what grows is taken to stay as large. A network whose trajectory or jump is not finite stays where
    the inner rule left it, which counts as one of `Cost.fallbacks`. The inner rule keeps its state over the jump.
    """

    history: int = 10
    """Differences h + 1 between snapshots, from which the modes are read."""
    spacing: int = 4
    """Steps of the inner rule from one snapshot to the next."""
    rank: int = 1
    """Largest number of modes; at most history - 1."""
    ahead: int = 5
    """Length of a jump, in steps times the spacing."""

    def __post_init__(self) -> None:
        check_at_least(self, history=2, spacing=1, rank=1, ahead=1)
        if self.rank >= self.history:
            raise ValueError(f"rank must be less than history, got {self.rank} and {self.history}: take more snapshots")

    @property
    def name(self) -> str:
        """In tables and figures."""
        return f"Dynamic modes of {self.inner.name}"

    def init(self, params: Tensors, task: Task) -> Trajectory:
        """See `UpdateRule`."""
        point = flat(params, task)
        snapshots = point.new_zeros(len(point), self.history + 1, point.shape[1])
        snapshots[:, 0] = point
        return Trajectory(0, snapshots, self.inner.init(params, task))

    def step(self, params: Tensors, state: Trajectory, problem: Problem) -> tuple[Tensors, Trajectory]:
        """See `UpdateRule`."""
        num_steps, snapshots, inner = state
        params, inner = self.inner.step(params, inner, problem)
        number, rest = divmod(num_steps + 1, self.spacing)
        if rest == 0:
            snapshots[:, number] = flat(params, problem.task)
        if (number, rest) != (self.history, 0):
            return params, Trajectory(num_steps + 1, snapshots, inner)
        ends, stays = self.jump(snapshots)
        problem.cost += Cost(fallbacks=stays.float().mean().item())
        names = moving_names(problem.task)
        parts = ends.split([params[name][0].numel() for name in names], dim=1)
        moved = {name: part.reshape(params[name].shape).contiguous() for name, part in zip(names, parts, strict=True)}
        snapshots[:, 0] = ends
        return {**params, **moved}, Trajectory(0, snapshots, inner)

    def jump(self, snapshots: Tensor) -> tuple[Tensor, Tensor]:
        """Where trajectories lead, (B, h + 2, P) to (B, P), and which networks (B,) stay at their last snapshot."""
        import torch

        last, stays = snapshots[:, -1], ~snapshots.isfinite().flatten(1).all(dim=1)
        steps = torch.where(stays[:, None, None], 0.0, snapshots.diff(dim=1))  # a decomposition of NaN raises
        ends = last + dynamic_modes(steps, self.rank, most_growth=1.0).sum_ahead(self.ahead)
        stays = stays | ~ends.isfinite().all(dim=1)
        return torch.where(stays[:, None], last, ends), stays


def flat(params: Tensors, task: Task) -> Tensor:
    """The tensors that a rule moves, as one vector for each network: (B, P)."""
    import torch

    return torch.cat([params[name].flatten(1) for name in moving_names(task)], dim=1)
