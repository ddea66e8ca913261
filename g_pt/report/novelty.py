"""Is what the model makes new and good, and could arithmetic on its training runs do the same?

B = networks, P = parameters per network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation.baselines import COMPETITORS, aligned_runs
from g_pt.evaluation.novelty.copying import copying_interval
from g_pt.evaluation.novelty.nearest import NearestNetworks, NetworkDistance
from g_pt.evaluation.novelty.spread import Spread
from g_pt.evaluation.novelty.yardstick import Behaviour, Yardstick
from g_pt.evaluation.runs import ReferenceRuns, RunSet
from g_pt.evaluation.statistics import Interval, bootstrap_mean, bootstrap_median
from g_pt.model.prompting import update_networks
from g_pt.pictures.canvas import BLUE, GREY, new_figure, save_figure
from g_pt.report.section import Section, Subject, Table

SAMPLES, FRESH, TRAINING = "G.pt", "fresh networks", "training runs"
NETWORKS_OF_DEEP_TASKS = 64
NETWORKS_PER_PROMPT = 128
EASIER = torch.tensor([0.0, 0.05, 0.1, 0.15, 0.2])  # of the way from the best attainable metric to that of the inits
PRODUCTS = 10**12  # multiplications for a row of the table: a minute of one core, at worst
DRAWN = (TRAINING, FRESH, SAMPLES, "noise 0.2", "interpolation, aligned", "average of 16, aligned")


@dataclass(frozen=True)
class Figures:
    """One row: means over networks, or as said, with 95 % bootstrap intervals; None where the task has no such thing.

    Attributes:
        networks: their number.
        quality: test accuracy in percent of classifiers, else the prompted metric on the test split.
        nearest_run: MEDIAN distance to the nearest training run, L2 of raw parameters, over all orders of units.
        nearest_run_relative: mean of that distance over the median distance of a training run to the nearest other.
        copying_score: Mann-Whitney z against held-out runs; strongly negative is copying.
        overlap_nearest: mistakes in common with the nearest training run, over mistakes of either.
        overlap_most: the same with the training run where it is largest.
        overlap_excess: that minus what held-out runs with as many mistakes have.
        accurate: share at least as good as the bar.
        novel: share farther from the nearest training run than the median training run is from its nearest other.
        accurate_and_novel: share that is both.
        accurate_and_apart: share that is accurate and farther from the nearest run than the median PAIR of runs is.
        dispersion: mean distance of random pairs of the set over that of training runs, raw.
        dispersion_matched: the same over all orders of units.
    """

    networks: int
    quality: Interval
    nearest_run: Interval
    nearest_run_relative: Interval
    copying_score: Interval
    overlap_nearest: Interval | None
    overlap_most: Interval | None
    overlap_excess: Interval | None
    accurate: Interval
    novel: Interval
    accurate_and_novel: Interval
    accurate_and_apart: Interval
    dispersion: Interval
    dispersion_matched: Interval


def measure_novelty(subject: Subject) -> Section | None:
    """Compare one-update samples, trivial competitors and fresh networks with the training runs.

    None where the training runs are not at hand.
    """
    if subject.runs is None:
        return None
    generator = subject.generator("novelty")
    task, metric = subject.pipeline.task, subject.pipeline.metric
    fresh, peers = halves(subject.runs.held_out)
    subject.progress("distances between training runs")
    num_networks = affordable_networks(subject)
    yardstick = Yardstick(task, metric, subject.runs.training, peers, num_networks, generator)
    prompt = subject.best_prompt

    measured: dict[str, Behaviour] = {}
    for name, params in compared_networks(subject, fresh, prompt, num_networks, generator):
        subject.progress(f"novelty of {name}")
        measured[name] = yardstick.measure(params)
    measured[TRAINING] = yardstick.training
    rows: dict[str, Figures] = {}
    for name, found in measured.items():
        apart = yardstick.spread(found.params, num_networks, subject.generator(f"novelty/{name}"))
        rows[name] = row_figures(yardstick, found, apart)
    easier = easier_prompts(subject, yardstick, min(num_networks, NETWORKS_PER_PROMPT))
    bar = yardstick.bar
    facts = {
        "prompt": prompt,
        "accurate": {"metric": bar.metric.name, "threshold": bar.threshold, "rule": bar.rule},
        "novel_from": yardstick.novel_from,
        "training_pairs": {"pairs": num_networks} | asdict(bootstrap_median(yardstick.training_spread.matched)),
        "training_runs": len(subject.runs.training.ends),
        "held_out_runs": {"fresh": len(fresh.ends), "compared_with": len(peers.ends)},
        "exact_distances": yardstick.distance.exact,
        "nearest_checkpoint": nearest_checkpoints(subject.runs, yardstick, measured),
        "rows": {name: asdict(row) for name, row in rows.items()},
        "prompts": [{"prompt": asked, **asdict(row)} for asked, row in easier],
    }  # fmt: skip
    distances = {name: measured[name].distance for name in DRAWN if name in measured}
    return Section(
        name="novelty",
        title="Is it new?",
        facts=facts,
        tables=(novelty_table(rows, yardstick, subject), prompt_table(easier, yardstick, subject)),
        notes=tuple(notes(yardstick, subject.runs)),
        figures={"novelty.png": partial(draw_distances, distances, yardstick.novel_from)},
    )


def affordable_networks(subject: Subject) -> int:
    """How many networks a row takes: as many as asked for, or at least 16 of them where that takes too long.

    Every network is compared with every training run, unit by unit; with several hidden layers, distances are searches
    of their own.
    """
    assert subject.runs is not None
    task, training = subject.pipeline.task, subject.runs.training
    distance = NetworkDistance(task.layout, task.permutations)
    groups = distance.features(training.ends[:1]).groups.values()  # (1, U, D)
    products = len(training.ends) * sum(units.shape[1] ** 2 * units.shape[2] for units in groups)
    most = min(subject.num_networks, NETWORKS_OF_DEEP_TASKS) if not distance.exact else subject.num_networks
    return min(most, max(16, PRODUCTS // max(1, products)))


def compared_networks(
    subject: Subject, fresh: RunSet, prompt: float, num: int, generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """Name and parameters (B, P) of each row: samples, fresh networks, competitors."""
    assert subject.runs is not None
    pipeline, training = subject.pipeline, subject.runs.training
    starts = pipeline.task.init(num, generator)
    yield SAMPLES, samples(subject, starts, prompt, generator)
    yield FRESH, fresh.ends[:num]
    subject.progress("bringing the training runs into one order")
    aligned = replace(training, ends=aligned_runs(training.ends, training.layout, pipeline.task.permutations))
    for competitor in COMPETITORS.values():
        key = subject.generator(f"novelty/{competitor.name}")
        if not competitor.averages:
            yield competitor.name, competitor.generate(training, starts, key)
            continue
        for order, runs in (("raw", training), ("aligned", aligned)):
            yield f"{competitor.name}, {order}", competitor.generate(runs, starts, key)


def samples(subject: Subject, starts: Tensor, prompt: float, generator: torch.Generator) -> Tensor:
    """One update of each start (B, P) for one prompt: (B, P)."""
    steps, prompts = subject.num_inference_steps, torch.tensor([prompt])
    return update_networks(subject.pipeline, starts, prompts, num_inference_steps=steps, generator=generator)[:, 0]


def easier_prompts(subject: Subject, yardstick: Yardstick, num: int) -> list[tuple[float, Figures]]:
    """The same figures for the best attainable prompt and for easier ones, on the metric's own scale."""
    generator, metric = subject.generator("novelty/prompts"), subject.pipeline.metric
    best, worst = metric.embedded(torch.tensor(subject.pipeline.facts.attainable()))
    starts = subject.pipeline.task.init(num, generator)
    rows = []
    for prompt in metric.unembedded(best + EASIER * (worst - best)).tolist():
        subject.progress(f"novelty at prompt {prompt:.3g}")
        found = yardstick.measure(samples(subject, starts, prompt, generator))
        rows.append((prompt, row_figures(yardstick, found, yardstick.spread(found.params, num, generator))))
    return rows


def halves(held_out: RunSet) -> tuple[RunSet, RunSet]:
    """Held-out runs that stand for fresh networks, and those that everything is compared with.

    Raises:
        ValueError: there are fewer than four.
    """
    if len(held_out.ends) < 4:
        raise ValueError(f"novelty needs at least 4 held-out runs, got {len(held_out.ends)}: harvest more runs")
    half = len(held_out.ends) // 2

    def part(rows: slice) -> RunSet:
        return replace(held_out, **{name: getattr(held_out, name)[rows] for name in ("starts", "ends", "end_metric")})

    return part(slice(half)), part(slice(half, None))


def row_figures(yardstick: Yardstick, found: Behaviour, apart: Spread) -> Figures:
    """Sum up one set of networks."""
    values = found.metrics[yardstick.bar.metric.name]
    accurate = yardstick.bar.passed(values)
    novel = found.distance > yardstick.novel_from
    pair = yardstick.training_spread.matched.median()
    usual = yardstick.training_spread

    def over(distances: Tensor, reference: Tensor) -> Interval:
        return bootstrap_mean(distances / reference.mean())

    return Figures(
        networks=len(found.params),
        quality=bootstrap_mean(100 - values if yardstick.classifier else values),
        nearest_run=bootstrap_median(found.distance),
        nearest_run_relative=bootstrap_mean(found.distance / yardstick.novel_from),
        copying_score=copying_interval(found.distance, yardstick.held_out.distance),
        overlap_nearest=mean_or_none(found.overlap_nearest),
        overlap_most=mean_or_none(found.overlap_most),
        overlap_excess=excess(found),
        accurate=share(accurate),
        novel=share(novel),
        accurate_and_novel=share(accurate & novel),
        accurate_and_apart=share(accurate & (found.distance > pair)),
        dispersion=over(apart.raw, usual.raw),
        dispersion_matched=over(apart.matched, usual.matched),
    )


def share(which: Tensor) -> Interval:
    """Share of networks with its bootstrap interval."""
    return bootstrap_mean(which.double())


def mean_or_none(values: Tensor | None) -> Interval | None:
    """Mean of what was measured; None for less than two."""
    return None if values is None or len(values) < 2 else bootstrap_mean(values)


def excess(found: Behaviour) -> Interval | None:
    """Mistakes in common beyond those of held-out runs of the same accuracy, of the networks that have such peers."""
    if found.overlap_most is None or found.overlap_peers is None:
        return None
    gap = found.overlap_most - found.overlap_peers
    return mean_or_none(gap[gap.isfinite()])


def nearest_checkpoints(
    runs: ReferenceRuns, yardstick: Yardstick, measured: dict[str, Behaviour]
) -> dict[str, dict[str, Any]]:
    """Median distance to the nearest of the runs' checkpoints, drawn at random from all steps."""
    search = NearestNetworks(runs.training.checkpoints, yardstick.distance)
    return {
        name: {"checkpoints": len(runs.training.checkpoints)}
        | asdict(bootstrap_median(search(measured[name].params).distance))
        for name in (SAMPLES, FRESH)
    }


def novelty_table(rows: dict[str, Figures], yardstick: Yardstick, subject: Subject) -> Table:
    """The figures that people read; the JSON has all of them."""
    assert subject.runs is not None
    title = (
        f"One update for {rows[SAMPLES].networks} unseen inits against arithmetic on {len(subject.runs.training.ends)} "
        f"training runs and {rows[FRESH].networks} freshly trained networks, test split"
    )
    columns = table_columns(yardstick)
    return Table(title, ("networks", *columns), tuple((name, *cells(row, columns)) for name, row in rows.items()))


def prompt_table(rows: list[tuple[float, Figures]], yardstick: Yardstick, subject: Subject) -> Table:
    """The same for the model at several prompts."""
    columns = table_columns(yardstick)
    title = f"One update for {rows[0][1].networks} unseen inits, from the best prompt on, test split"
    lines = tuple((f"{prompt:.3g}", *cells(row, columns)) for prompt, row in rows)
    return Table(title, (f"prompted {subject.pipeline.metric.name}", *columns), lines)


def table_columns(yardstick: Yardstick) -> dict[str, tuple[str, int]]:
    """Heading of each column, the figure in it and its digits."""
    quality = "test accuracy %" if yardstick.classifier else f"test {yardstick.bar.metric.name}"
    return {
        quality: ("quality", 1 if yardstick.classifier else 3),
        "nearest run": ("nearest_run", 2),
        "copying z": ("copying_score", 1),
        **(
            {"errors shared": ("overlap_most", 2), "beyond peers": ("overlap_excess", 2)}
            if yardstick.classifier
            else {}
        ),
        "accurate and novel": ("accurate_and_novel", 2),
        "dispersion raw": ("dispersion", 2),
        "matched": ("dispersion_matched", 2),
    }


def cells(row: Figures, columns: dict[str, tuple[str, int]]) -> Iterator[str]:
    """The figures of one row as text."""
    return (cell(getattr(row, key), digits) for key, digits in columns.values())


def cell(value: Interval | None, digits: int) -> str:
    """Mean and interval with some digits."""
    if value is None:
        return "-"
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def notes(yardstick: Yardstick, runs: ReferenceRuns) -> Iterator[str]:
    """How to read the table."""
    bar = yardstick.bar
    yield (
        f"Accurate: {bar.rule}, here {bar.metric.name} {bar.threshold:.3g} on the test split. Novel: farther from the "
        f"nearest of {len(runs.training.ends)} training runs than the median training run is from its nearest other, "
        f"here {yardstick.novel_from:.3g}; honest fresh networks are novel in about half of all cases."
    )
    yield (
        "Distances are L2 of raw parameters after the best assignment of hidden units for every pair"
        + ("." if yardstick.distance.exact else "; with several hidden layers a local optimum.")
    )
    yield (
        "Copying z: Mann-Whitney test of distances to the training runs against held-out runs (Meehan et al. 2020); "
        "below about -2 networks lie nearer to the training runs than held-out runs do."
    )
    if yardstick.classifier:
        yield (
            "Errors shared: wrong test examples in common with a training run over those of either, at its largest. "
            "It rises with accuracy; beyond peers: minus that of held-out runs with as many mistakes."
        )
    yield "Dispersion: distance of two networks of the set over that of two training runs."


def draw_distances(distances: dict[str, Tensor], novel_from: float, path: Path) -> None:
    """Histograms of the distance to the nearest training run."""
    figure, (axis,) = new_figure()
    largest = 1.05 * max(values.max().item() for values in distances.values())
    bins = torch.linspace(0, largest, 60).numpy()
    styles = {TRAINING: {"color": GREY, "lw": 1.6}, SAMPLES: {"color": BLUE, "lw": 2.0}}
    for number, (name, values) in enumerate(distances.items()):
        style = styles.get(name, {"color": f"C{number}", "lw": 1.2})
        axis.hist(values.numpy(), bins=bins, density=True, histtype="step", label=name, **style)
    axis.axvline(novel_from, color=GREY, ls=":", lw=1, label="median between training runs")
    axis.set(xlabel="distance to the nearest (other) training run", ylabel="density")
    axis.legend(frameon=False, fontsize=8)
    save_figure(figure, path)
