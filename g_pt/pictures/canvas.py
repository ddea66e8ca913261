"""Pictures. Every function takes arrays and writes a PNG, PDF or SVG, as the suffix of its path says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike

from g_pt.files.atomic import atomic_path
from g_pt.networks.metrics import Metric

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#7f7f7f"
# Okabe and Ito's palette without orange-red, which marks a G.pt's update everywhere; more curves begin it anew
COLORS = ("#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#e69f00", "#000000", "#8c510a", "#7f7f7f")
FORMATS = ("png", "pdf", "svg")
# a moment of writing in a file would make equal pictures differ
UNDATED = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def new_figure(num_columns: int = 1, num_rows: int = 1) -> tuple[Figure, list[Any]]:
    """A figure with a grid of axes, row by row; no global pyplot state, no display."""
    figure = Figure(figsize=(5.2 * num_columns, 4.2 * num_rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def show_words(figure: Figure) -> None:
    """Show dollars in names and units as dollars: what lies between two of them would be read as a formula.

    Labels of ticks are formulas that matplotlib writes itself.
    """
    for text in figure.findobj(Text):
        if isinstance(text, Text) and "$" in text.get_text() and "mathdefault" not in text.get_text():
            text.set_parse_math(False)


def check_picture(path: Path, formats: Sequence[str] = FORMATS) -> None:
    """Refuse a path whose suffix names no format of pictures.

    Raises:
        ValueError: it does not.
    """
    if path.suffix.removeprefix(".").lower() not in formats:
        raise ValueError(f"a picture's name must end in {' or '.join('.' + f for f in formats)}, got {path}")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically, in the format of the path's suffix.

    Raises:
        ValueError: the suffix is none of `FORMATS`.
    """
    check_picture(path)
    kind = path.suffix[1:].lower()
    show_words(figure)
    with atomic_path(path) as temporary, rc_context({"svg.hashsalt": "g-pt", "pdf.fonttype": 42}):
        figure.savefig(temporary, format=kind, metadata=UNDATED[kind])


def plain_log(axis: Any, which: str = "y") -> None:
    """Make an axis logarithmic, with plain numbers at its ticks: all of them, or those of the decades."""
    getattr(axis, f"set_{which}scale")("log")
    low, high = getattr(axis, f"get_{which}lim")()
    decades = math.log10(high / low) if 0 < low < high else 1.0
    one = axis.yaxis if which == "y" else axis.xaxis
    one.set_major_locator(LogLocator(subs=(1, 2, 5) if decades <= 3 else (1,), numticks=30))
    one.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))
    one.set_minor_formatter(NullFormatter())


def short_number(value: float) -> str:
    """Two digits, or more where there are more before the point: never an exponent for large values, as of returns."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def plain_number(value: float) -> str:
    """Digits of a tick, with k and M from 1,000 on: one form for all ticks of an axis."""
    if value >= 1e6:
        return f"{value / 1e6:.10g} M"
    return f"{value / 1e3:.10g} k" if value >= 1e3 else f"{value:.10g}"


def draw_course(axis: Any, xs: ArrayLike, ys: ArrayLike, style: str = "-", **options: Any) -> None:
    """Draw a line; where it has one point only, a dot that says so."""
    x, y = np.asarray(xs), np.asarray(ys)
    if len(x) != 1:
        axis.plot(x, y, style, **options)
        return
    axis.plot(x, y, "o", **options)
    axis.annotate("one point", (x[0], y[0]), (6, 4), textcoords="offset points", fontsize=7, color=GREY)


def save_prompt_curve(
    prompts: ArrayLike,
    achieved: ArrayLike,
    path: Path,
    *,
    metric: Metric,
    alignment: float,
    best: float | None = None,
    start: float | None = None,
) -> None:
    """Prompted against achieved: mean, middle 90 % of networks, identity line.

    Args:
        prompts: (K,).
        achieved: (networks, K).
        path: of the picture.
        metric: that is prompted.
        alignment: shown in the title.
        best: the runs' best metric, drawn as a line.
        start: mean metric of the starting networks, drawn as a line.
    """
    x, y = np.asarray(prompts), np.asarray(achieved)
    figure, (axis,) = new_figure()
    low, high = np.quantile(y, [0.05, 0.95], axis=0)
    axis.plot([x.min(), x.max()], [x.min(), x.max()], "--", color=GREY, lw=1, label="identity")
    axis.fill_between(x, low, high, color=BLUE, alpha=0.2, lw=0, label=f"middle 90 % of {len(y)} networks")
    draw_course(axis, x, y.mean(axis=0), "o-", color=BLUE, ms=3.5, label="mean after one update")
    for value, name, color in ((best, "trained runs", ORANGE), (start, "before the update", GREY)):
        if value is not None:
            axis.axhline(value, color=color, lw=1, ls=":", label=f"{name}: {value:.3g}")
    axis.set(xlabel=f"prompted {metric.label}", ylabel=f"achieved {metric.label}, test split")
    axis.set_title(f"prompt alignment {alignment:.3f}", fontsize=11)
    axis.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 0.06))
    save_figure(figure, path)


def save_training_curve(lines: list[dict[str, Any]], path: Path) -> None:
    """Loss, and achieved metric per prompt or metric of held-out networks, over steps, from the lines of a log."""
    losses = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "prompts" in line]
    figure, (left, right) = new_figure(2)
    steps, values = (np.array([e[key] for e in losses]) for key in ("step", "loss"))
    draw_course(left, steps, values, color=BLUE, alpha=0.25 if len(values) > 1 else 1, lw=0.8)
    if window := len(values) // 20:
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        left.plot(steps[window // 2 :][: len(smooth)], smooth, color=BLUE)
    held_out = [line for line in lines if "held_out" in line]  # of meta-training
    left.set(xlabel="step", ylabel="loss along trainings" if held_out else "denoising error", yscale="log")
    if held_out:
        draw_course(right, [e["step"] for e in held_out], [e["held_out"] for e in held_out], "o-", ms=3, color=BLUE)
        right.set(xlabel="step", ylabel="held-out networks, validation split")
    for k, prompt in enumerate(evaluations[-1]["prompts"] if evaluations else []):
        color = COLORS[k % len(COLORS)]
        achieved = [e["achieved"][k] for e in evaluations]
        draw_course(right, [e["step"] for e in evaluations], achieved, "o-", ms=3, color=color)
        right.axhline(prompt, color=color, ls=":", lw=1)
    if not held_out:
        right.set(xlabel="step", ylabel="achieved (dotted: prompted)")
    if evaluations:
        right.set_title(f"alignment {evaluations[-1]['alignment']:.3f}", fontsize=11)
    save_figure(figure, path)
