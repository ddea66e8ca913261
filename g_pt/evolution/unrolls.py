"""Gradients of a loss along a long unrolled process, such as the training of networks by a learned optimizer.

Evolution strategies (Vicol et al. 2021, "Unbiased Gradient Estimation in Unrolled Computation Graphs with Persistent
Evolution Strategies") and truncated backpropagation, behind one protocol. Processes are unrolled for a window of steps
at a time and go on from where they were, at places spread over the horizon; at its end they begin anew.

B = processes, N = pairs of them, M = weights, T = horizon, K = steps of a window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

Noise = Literal["persistent", "shared", "truncated"]


class Unroll(Protocol):
    """Processes whose states are trees of tensors, with an axis for the processes in front."""

    horizon: int
    """T, steps from the beginning of a process to its end."""

    def begin(self, num: int, generator: torch.Generator) -> Any:
        """States of so many new processes."""
        ...

    def run(self, weights: Tensor, state: Any, num_steps: int, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Losses (K, B) of the next steps, differentiable in the weights (M,) or (B, M), and the states after them.

        What is random is the same for all processes.
        """
        ...


class UnrollState(NamedTuple):
    """Between two estimates.

    Attributes:
        processes: their states; of pairs, first all of one sign, then all of the other.
        ages: (N,), steps since the beginning of each, or of each pair.
        noise: (N, M), perturbation of the last window.
        summed: (N, M), perturbations that the state of each pair has seen since its beginning.
    """

    processes: Any
    ages: Tensor
    noise: Tensor
    summed: Tensor


class Estimate(NamedTuple):
    """Gradient (M,), mean loss, share of losses that were not finite or above the clamp, and the state after it."""

    gradient: Tensor
    loss: float
    clamped: float
    state: UnrollState


class GradientEstimator(Protocol):
    """Estimates the gradient of a mean loss along unrolled processes."""

    def begin(self, unroll: Unroll, num_weights: int, generator: torch.Generator) -> UnrollState:
        """State before the first estimate."""
        ...

    def estimate(
        self, unroll: Unroll, weights: Tensor, state: UnrollState | None, generator: torch.Generator
    ) -> Estimate:
        """Unroll for a window from a state, or from the beginning where it is None; weights (M,)."""
        ...


@dataclass(frozen=True)
class Windows:
    """How losses along a process are cut into windows and weighed."""

    window: int | None = 10
    """Steps K between two estimates, of which the horizon is a multiple; the whole horizon where not given."""
    max_loss: float = 3.0
    """Losses above, and those that are not finite, count as so much."""
    rising: bool = True
    """Weigh the loss after t of T steps by 2 t / T, so that the end counts most."""

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")

    def steps(self, unroll: Unroll) -> int:
        """K; raises ValueError where the horizon is no multiple of it."""
        window = self.window or unroll.horizon
        if unroll.horizon % window:
            raise ValueError(f"the horizon must be a multiple of the window, got {unroll.horizon} and {window}")
        return window

    def begun(self, unroll: Unroll, shape: tuple[int, int], copies: int, generator: torch.Generator) -> UnrollState:
        """New processes, spread over the horizon, so that the first of each are shorter; shape is (N, M)."""
        num, window, zeros = shape[0], self.steps(unroll), torch.zeros(shape)
        ages = torch.arange(num) * (unroll.horizon // window) // num * window
        return UnrollState(repeated(unroll.begin(num, generator), copies), ages, zeros, zeros.clone())

    def renewed(
        self, unroll: Unroll, state: UnrollState, copies: int, generator: torch.Generator
    ) -> tuple[UnrollState, Tensor]:
        """A state in which processes at their end have begun anew, and which have: (N,)."""
        num, over = len(state.ages), state.ages >= unroll.horizon
        rows = over.nonzero()[:, 0]
        if not len(rows):
            return state, over
        fresh = repeated(unroll.begin(len(rows), generator), copies)
        places = torch.cat([rows + k * num for k in range(copies)])
        processes = mapped(lambda old, new: old.detach().index_copy(0, places, new), state.processes, fresh)
        return state._replace(processes=processes, ages=state.ages.masked_fill(over, 0)), over

    def weighed(self, losses: Tensor, ages: Tensor, horizon: int) -> tuple[Tensor, float]:
        """Mean clamped loss of each process (B,) over a window of losses (K, B), and the share that was clamped."""
        # NaN is clamped before a product with it could make gradients NaN; `~` counts it as above
        bad = ~(losses <= self.max_loss)
        kept = torch.where(bad, losses.new_tensor(self.max_loss), losses)
        if self.rising:
            kept = kept * (2 * (ages + torch.arange(1, len(losses) + 1)[:, None]) / horizon).to(kept)
        return kept.mean(dim=0), bad.float().mean().item()


@dataclass(frozen=True)
class EvolutionStrategies(Windows):
    """Antithetic evolution strategies: PES, and full-length and truncated ones as its limits."""

    num_pairs: int = 64
    """Pairs N of processes with opposite perturbations of the weights."""
    sigma: float = 0.01
    """Standard deviation of the perturbations."""
    noise: Noise = "persistent"
    """`persistent` draws a perturbation for each window and weighs losses by the sum of those that a process has seen
    (PES); `shared` keeps one for a whole process, which is unbiased too and varies less (Li et al. 2023);
    `truncated` forgets the earlier ones, which is biased. With window = horizon all are full-length."""

    def begin(self, unroll: Unroll, num_weights: int, generator: torch.Generator) -> UnrollState:
        """See `GradientEstimator`."""
        return self.begun(unroll, (self.num_pairs, num_weights), 2, generator)

    def estimate(
        self, unroll: Unroll, weights: Tensor, state: UnrollState | None, generator: torch.Generator
    ) -> Estimate:
        """See `GradientEstimator`: sum of noise times (L+ - L-) / (2 sigma^2), mean over the pairs."""
        with torch.no_grad():
            if state is None:
                state, begun = self.begin(unroll, len(weights), generator), torch.ones(self.num_pairs, dtype=torch.bool)
            else:
                state, begun = self.renewed(unroll, state, 2, generator)
            noise = self.sigma * torch.randn(state.noise.shape, generator=generator)
            if self.noise == "shared":
                noise = torch.where(begun[:, None], noise, state.noise)
            kept = state.summed.masked_fill(begun[:, None], 0)
            summed = kept + noise if self.noise == "persistent" else noise
            num_steps = self.steps(unroll)
            both = torch.cat([weights + noise, weights - noise])
            losses, processes = unroll.run(both, state.processes, num_steps, generator)
            means, clamped = self.weighed(losses, state.ages.repeat(2), unroll.horizon)
            plus, minus = means.split(self.num_pairs)
            gradient = ((plus - minus)[:, None] * summed).mean(dim=0) / (2 * self.sigma**2)
        after = UnrollState(processes, state.ages + num_steps, noise, summed)
        return Estimate(gradient, means.mean().item(), clamped, after)


@dataclass(frozen=True)
class TruncatedBackpropagation(Windows):
    """Backpropagation through the steps of a window, and not further back; biased unless window = horizon."""

    num_processes: int = 8
    """Processes B."""

    def begin(self, unroll: Unroll, num_weights: int, generator: torch.Generator) -> UnrollState:
        """See `GradientEstimator`."""
        return self.begun(unroll, (self.num_processes, 0), 1, generator)

    def estimate(
        self, unroll: Unroll, weights: Tensor, state: UnrollState | None, generator: torch.Generator
    ) -> Estimate:
        """See `GradientEstimator`; processes with losses that are not finite begin anew, gradients of them are 0."""
        state = self.begin(unroll, len(weights), generator) if state is None else state
        state, _ = self.renewed(unroll, state, 1, generator)
        leaf, num_steps = weights.detach().requires_grad_(), self.steps(unroll)
        with torch.enable_grad():
            processes = mapped(lambda tensor: tensor.detach(), state.processes)
            losses, processes = unroll.run(leaf, processes, num_steps, generator)
            means, clamped = self.weighed(losses, state.ages, unroll.horizon)
            (gradient,) = torch.autograd.grad(means.mean(), [leaf])
        lost = ~(losses[-1] <= self.max_loss).detach()
        ages = (state.ages + num_steps).masked_fill(lost, unroll.horizon)
        processes = mapped(lambda tensor: tensor.detach(), processes)
        finite = gradient if gradient.isfinite().all() else torch.zeros_like(gradient)
        return Estimate(finite, means.mean().item(), clamped, state._replace(processes=processes, ages=ages))


def mapped(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """A tree of dicts, tuples and tensors with a function of the tensors at each place of all trees."""
    if isinstance(tree, dict):
        return {name: mapped(function, part, *(other[name] for other in others)) for name, part in tree.items()}
    if isinstance(tree, tuple):
        parts = [mapped(function, *each) for each in zip(tree, *others, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return None if tree is None else function(tree, *others)


def leaves(tree: Any) -> list[Tensor]:
    """All tensors of a tree, in the order of `mapped`."""
    found: list[Tensor] = []
    mapped(found.append, tree)
    return found


def repeated(tree: Any, times: int) -> Any:
    """The processes of a tree, one copy behind the other."""
    return mapped(lambda tensor: tensor.repeat(times, *(1,) * (tensor.dim() - 1)), tree)
