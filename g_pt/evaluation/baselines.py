"""Trivial generators of networks: what a G.pt has to beat before anybody needs one.

Each makes networks from the ends of training runs by arithmetic alone. With their units in the order they were
trained in, averages of networks mean nothing; brought into a common order (`aligned_runs`), some are strong. The list
follows Zeng et al. 2025 (arXiv 2506.07998).

R = training runs, B = networks made, P = parameters per network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from g_pt.evaluation.runs import RunSet
from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec
from g_pt.permutations.matching import matched

FITTED_RUNS = 4000  # of which principal components are estimated
ALIGNMENT_ROUNDS = 3


class Generate(Protocol):
    """Makes networks from runs; `asked` (B, P) are the starts for which somebody wants a network each."""

    def __call__(self, runs: RunSet, asked: Tensor, generator: torch.Generator) -> Tensor:
        """Make one network per start: (B, P), raw."""
        ...


@dataclass(frozen=True)
class Competitor:
    """One trivial generator.

    Attributes:
        name: as in tables.
        description: what it does, in a few words.
        generate: does it.
        averages: whether it mixes networks, so that it is another one when they are in a common order of units.
    """

    name: str
    description: str
    generate: Generate
    averages: bool = True


COMPETITORS: dict[str, Competitor] = {}


def register_competitor(name: str, description: str, *, averages: bool = True) -> Callable[[Generate], Generate]:
    """Add a generator to the list under a name that is not taken."""

    def add(generate: Generate) -> Generate:
        if name in COMPETITORS:
            raise ValueError(f"there is a competitor {name!r} already")
        COMPETITORS[name] = Competitor(name, description, generate, averages)
        return generate

    return add


def aligned_runs(
    params: Tensor, layout: ParameterLayout, permutations: PermutationSpec, *, rounds: int = ALIGNMENT_ROUNDS
) -> Tensor:
    """Bring the units of all networks (R, P) into one common order, each network computing what it did.

    The reference is the first network and then, for the other rounds, the mean of the aligned ones, which every
    network is nearer to than to any other network.
    """
    reference = params[0]
    for _ in range(rounds):
        params = matched(reference, params, layout, permutations)
        reference = params.mean(dim=0)
    return params


def draw_rows(runs: RunSet, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Rows of random runs, int64."""
    return torch.randint(len(runs.ends), shape, generator=generator)


@register_competitor("nearest start", "the end of the training run whose start is nearest (retrieval)", averages=False)
def retrieve(runs: RunSet, asked: Tensor, generator: torch.Generator) -> Tensor:
    """Distances of starts are those of the networks as they are: whichever run is taken, its end is a copy."""
    return runs.ends[torch.cdist(asked, runs.starts).argmin(dim=1)]


def add_noise(amplitude: float) -> Generate:
    """Ends plus Gaussian noise of a share of each tensor's standard deviation over all runs."""

    def generate(runs: RunSet, asked: Tensor, generator: torch.Generator) -> Tensor:
        ends = runs.ends[draw_rows(runs, (len(asked),), generator)]
        return ends + amplitude * tensor_deviations(runs) * torch.randn(ends.shape, generator=generator)

    return generate


for _amplitude in (0.1, 0.2, 0.5):
    register_competitor(
        f"noise {_amplitude:g}", f"a training run plus noise of {_amplitude:g} standard deviations", averages=False
    )(add_noise(_amplitude))


@register_competitor("interpolation", "two training runs, mixed with a random weight")
def interpolate(runs: RunSet, asked: Tensor, generator: torch.Generator) -> Tensor:
    """Weights are uniform between 0 and 1."""
    one, other = (runs.ends[draw_rows(runs, (len(asked),), generator)] for _ in range(2))
    return one.lerp(other, torch.rand(len(asked), 1, generator=generator))


def average(num: int) -> Generate:
    """Means of several random ends."""

    def generate(runs: RunSet, asked: Tensor, generator: torch.Generator) -> Tensor:
        rows = draw_rows(runs, (len(asked), num), generator)
        return torch.stack([runs.ends[some].mean(dim=0) for some in rows])

    return generate


register_competitor("average of 16", "the mean of 16 training runs (soup)")(average(16))


@register_competitor("average of 16, noise 0.5", "the same plus noise of 0.5 standard deviations")
def average_with_noise(runs: RunSet, asked: Tensor, generator: torch.Generator) -> Tensor:
    """Averages lie between the runs; noise brings them as far from each run as runs are from each other."""
    networks = average(16)(runs, asked, generator)
    return networks + 0.5 * tensor_deviations(runs) * torch.randn(networks.shape, generator=generator)


@register_competitor("Gaussian", "every parameter drawn from its mean and standard deviation")
def draw_gaussian(runs: RunSet, asked: Tensor, generator: torch.Generator) -> Tensor:
    """Parameters are independent of each other."""
    noise = torch.randn(len(asked), runs.ends.shape[1], generator=generator)
    return runs.ends.mean(dim=0) + runs.ends.std(dim=0) * noise


def draw_from_components(num: int) -> Generate:
    """A Gaussian over the first principal components; nothing outside of them."""

    def generate(runs: RunSet, asked: Tensor, generator: torch.Generator) -> Tensor:
        rows = torch.randperm(len(runs.ends), generator=generator)[:FITTED_RUNS]
        mean, directions, deviations = principal_components(runs.ends[rows], num)
        scores = deviations * torch.randn(len(asked), len(deviations), generator=generator)
        return mean + scores @ directions

    return generate


for _num in (16, 64):
    register_competitor(f"PCA {_num}", f"a Gaussian over {_num} principal components")(draw_from_components(_num))


def principal_components(params: Tensor, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (P,), directions (K, P) and standard deviations (K,) of the first K components of networks (N, P).

    K is `num`, or fewer where there are not so many.
    """
    mean = params.mean(dim=0)
    centred = params - mean
    small = centred.T @ centred if centred.shape[1] < len(centred) else centred @ centred.T
    values, vectors = torch.linalg.eigh(small.double())
    kept = values.flip(0)[:num] > 1e-9 * values[-1]  # more components than networks: the others have no direction
    vectors = vectors.flip(1)[:, :num][:, kept].float()
    directions = vectors.T if small.shape[0] == params.shape[1] else vectors.T @ centred
    directions = directions / directions.norm(dim=1, keepdim=True)
    return mean, directions, (values.flip(0)[:num][kept] / (len(params) - 1)).sqrt().float()


def tensor_deviations(runs: RunSet) -> Tensor:
    """Standard deviation of each tensor's entries over all runs, for each parameter: (P,)."""
    parts = runs.layout.slices.values()
    return torch.cat([runs.ends[:, part].std().expand(part.stop - part.start) for part in parts])
