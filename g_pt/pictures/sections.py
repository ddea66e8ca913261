"""Pictures of the report's sections. Every function takes arrays and writes a PNG, PDF or SVG.

B = networks, K = prompts, S = steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from g_pt.evaluation.statistics import bootstrap_mean
from g_pt.networks.metrics import Metric
from g_pt.pictures.canvas import COLORS, GREY, ORANGE, draw_course, new_figure, plain_log, save_figure, short_number


def save_optimizer_curves(
    steps: Sequence[int], curves: Mapping[str, Tensor], one_update: Tensor, path: Path, metric: Metric
) -> None:
    """Mean metric (B, S) over steps for each optimizer, with its interval, and one update (B,) as a level line."""
    figure, (axis,) = new_figure()
    for color, (name, values) in zip(islice(cycle(COLORS), len(curves)), curves.items(), strict=True):
        draw_mean(axis, steps, values, color, name)
    level = bootstrap_mean(one_update)
    axis.axhline(level.mean, color=ORANGE, lw=1.6, ls="--", label=f"G.pt, one update: {level.mean:.3g}")
    axis.axhspan(level.low, level.high, color=ORANGE, alpha=0.15, lw=0)
    save_steps(
        figure, axis, "steps", f"{len(one_update)} unseen inits, rates tuned for each number of steps", path, metric
    )


def save_steps(figure: Any, axis: Any, steps: str, title: str, path: Path, metric: Metric) -> None:
    """Name the axes of a metric over steps, both logarithmic where the metric is, and save."""
    axis.set(xlabel=steps, ylabel=f"{metric.label}, test split")
    plain_log(axis, "x")
    if metric.transform == "log":
        plain_log(axis)
    axis.set_title(title, fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def draw_mean(axis: Any, steps: Sequence[int], values: Tensor, color: str, name: str, style: str = "-") -> None:
    """Mean of networks (B, S) over steps, in the band of its 95 % bootstrap interval."""
    intervals = [bootstrap_mean(column, num_resamples=1000) for column in values.T]
    draw_course(axis, steps, [i.mean for i in intervals], style, color=color, lw=1.3, ms=3, label=name)
    axis.fill_between(steps, [i.low for i in intervals], [i.high for i in intervals], color=color, alpha=0.2, lw=0)


def save_updates_and_steps(
    updates: Tensor, curves: Mapping[str, tuple[Sequence[int], Tensor]], start: Tensor, path: Path, metric: Metric
) -> None:
    """A G.pt's updates, one after the other (B, U), beside steps of optimizers: `{name: (steps, (B, S))}`.

    `start` (B,) is the metric before all of them, a level line.
    """
    figure, (axis,) = new_figure()
    before = start.double().mean().item()
    axis.axhline(before, color=GREY, lw=1, ls=":", label=f"before: {before:.3g}")
    draw_mean(axis, range(1, updates.shape[1] + 1), updates, ORANGE, "G.pt, repeated updates", "o-")
    for color, (name, (steps, values)) in zip(islice(cycle(COLORS), len(curves)), curves.items(), strict=True):
        draw_mean(axis, steps, values, color, name)
    title = f"{len(updates)} unseen inits; bands: 95 % intervals of the mean"
    save_steps(figure, axis, "updates of the G.pt, steps of an optimizer", title, path, metric)


def save_recursion(updates: Sequence[int], means: Tensor, prompts: Tensor, path: Path, metric: Metric) -> None:
    """Mean metric (K, S) over the number of updates; a line per prompt (K,), dotted where it should end."""
    from matplotlib import colormaps

    figure, (axis,) = new_figure()
    for fraction, prompt, line in zip(np.linspace(0.0, 0.9, len(prompts)), prompts.tolist(), means, strict=True):
        color = colormaps["viridis"](fraction)
        axis.axhline(prompt, color=color, lw=0.9, ls=":")
        axis.plot(updates, line.numpy(), "o-", color=color, ms=3, lw=1.3)
    axis.set(xlabel="updates", ylabel=f"{metric.label}, test split", xticks=list(updates))
    if metric.transform == "log":
        plain_log(axis)
    axis.set_title("mean over unseen inits, one line per prompt (dotted)", fontsize=10)
    save_figure(figure, path)


def save_plane(
    xs: Tensor, ys: Tensor, values: Tensor, run: Tensor, jump: Tensor, path: Path, metric: Metric, split: str
) -> None:
    """Contours of a metric over a plane, (len(ys), len(xs)), with a training run (C, 2) and an update's end (2,) in it.

    The origin is their start. Where the metric is not finite, as of networks with negative running variances, the plane
    stays empty.
    """
    from matplotlib.colors import LogNorm, Normalize

    figure, (axis,) = new_figure()
    axis.grid(visible=False)
    finite = values[values.isfinite()]
    lowest, highest = finite.min().item(), finite.max().item()
    logarithmic = metric.transform == "log" and lowest > 0
    levels = (np.geomspace if logarithmic else np.linspace)(lowest, highest * (1 + 1e-6) + 1e-9, 22)
    norm: Normalize = (LogNorm if logarithmic else Normalize)(lowest, highest)
    shown = np.ma.masked_invalid(values.numpy())
    field = axis.contourf(xs, ys, shown, levels=levels, norm=norm, cmap="viridis_r" if metric.minimize else "viridis")
    bar = figure.colorbar(
        field, ax=axis, label=f"{metric.label}, {split} split", format=lambda value, _: short_number(value)
    )
    bar.ax.minorticks_off()
    axis.plot(*run.T, "o-", color="white", ms=2.5, lw=1.2, label="training, projected")
    axis.annotate("", jump.tolist(), (0, 0), arrowprops={"arrowstyle": "->", "color": ORANGE, "lw": 2})
    axis.plot(*jump, "*", color=ORANGE, ms=13, label="one update")
    axis.plot(0, 0, "s", color="black", ms=6, label="start")
    axis.plot(*run[-1], "D", color="white", mec="black", ms=6, label="trained")
    axis.set(xlabel="from start towards trained (L2)", ylabel="across it, towards the update (L2)")
    axis.legend(fontsize=8, loc="best", facecolor="#555555", labelcolor="white", framealpha=0.6)
    save_figure(figure, path)


def save_paths(runs: Tensor, jumps: Tensor, explained: float, path: Path) -> None:
    """Training runs (R, C, 2) and one-step jumps for several prompts (R, K, 2), all seen from their starts."""
    figure, (axis,) = new_figure()
    for k, (run, ends) in enumerate(zip(runs, jumps, strict=True)):
        color = COLORS[k % len(COLORS)]
        axis.plot(*run.T, "-", color=color, lw=1.2, label="training runs" if k == 0 else None)
        axis.plot(*run[-1], "D", color=color, ms=5)
        axis.plot(
            *ends.T, "*", color=color, ms=8, ls="--", lw=0.8, label="one update, a prompt each" if k == 0 else None
        )
    axis.plot(0, 0, "s", color="black", ms=6, label="starts")
    axis.set(xlabel="first principal direction (L2)", ylabel="second (L2)")
    axis.set_title(f"{len(runs)} runs from their starts; {100 * explained:.0f} % of their variance", fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def save_sizes(sizes: Sequence[Mapping[str, Any]], path: Path, *, metric: Metric) -> None:
    """One update's metric beside that of trained runs, and the alignment, over the mean width of hidden layers.

    A colour for each number of layers; filled marks are sizes that were harvested, open ones that were not.
    """
    figure, (left, right) = new_figure(2)
    for color, depth in zip(cycle(COLORS), sorted({len(size["hidden"]) for size in sizes}), strict=False):
        alike = sorted((s for s in sizes if len(s["hidden"]) == depth), key=lambda s: float(np.prod(s["hidden"])))
        widths = [float(np.prod(size["hidden"])) ** (1 / depth) for size in alike]
        trained = [size[f"runs_test_{metric.name}"]["mean"] for size in alike]
        left.plot(widths, trained, "--", color=color, lw=1, label=f"{depth} hidden: trained runs")
        for axis, key, words in ((left, f"update_test_{metric.name}", "one update"), (right, "alignment", "")):
            values = [size[key]["mean"] for size in alike]
            axis.plot(widths, values, "-", color=color, lw=1.3, label=f"{depth} hidden: {words}" if words else None)
            for width, value, size in zip(widths, values, alike, strict=True):
                axis.plot(width, value, "o", color=color, mfc=color if size["harvested"] else "white", ms=5)
    left.set(xlabel="geometric mean of the hidden widths", ylabel=f"{metric.label}, test split")
    right.set(xlabel="geometric mean of the hidden widths (open: never harvested)", ylabel="prompt alignment")
    for axis in (left, right):
        plain_log(axis, "x")
    if metric.transform == "log":
        plain_log(left)
    left.legend(frameon=False, fontsize=8)
    save_figure(figure, path)
