"""Pictures. Every function takes arrays and writes a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from g_pt.files.atomic import atomic_path

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#7f7f7f"


def new_figure(num_columns: int = 1, num_rows: int = 1) -> tuple[Figure, list[Any]]:
    """A figure with a grid of axes, row by row; no global pyplot state, no display."""
    figure = Figure(figsize=(5.2 * num_columns, 4.2 * num_rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def save_prompt_curve(
    prompts: ArrayLike,
    achieved: ArrayLike,
    path: Path,
    *,
    metric: str,
    unit: str,
    alignment: float,
    best: float | None = None,
    start: float | None = None,
) -> None:
    """Prompted against achieved: mean, middle 90 % of networks, identity line.

    Args:
        prompts: (K,).
        achieved: (networks, K).
        path: of the PNG.
        metric: name of the metric.
        unit: of the metric.
        alignment: shown in the title.
        best: the runs' best metric, drawn as a line.
        start: mean metric of the starting networks, drawn as a line.
    """
    x, y = np.asarray(prompts), np.asarray(achieved)
    figure, (axis,) = new_figure()
    low, high = np.quantile(y, [0.05, 0.95], axis=0)
    axis.plot([x.min(), x.max()], [x.min(), x.max()], "--", color=GREY, lw=1, label="identity")
    axis.fill_between(x, low, high, color=BLUE, alpha=0.2, lw=0, label=f"middle 90 % of {len(y)} networks")
    axis.plot(x, y.mean(axis=0), "o-", color=BLUE, ms=3.5, label="mean after one update")
    for value, name, color in ((best, "trained runs", ORANGE), (start, "before the update", GREY)):
        if value is not None:
            axis.axhline(value, color=color, lw=1, ls=":", label=f"{name}: {value:.3g}")
    axis.set(xlabel=f"prompted {metric} ({unit})", ylabel=f"achieved {metric} ({unit}), test split")
    axis.set_title(f"prompt alignment {alignment:.3f}", fontsize=11)
    axis.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 0.06))
    save_figure(figure, path)


def save_training_curve(lines: list[dict[str, Any]], path: Path) -> None:
    """Denoising loss and achieved metric per prompt over steps, from the lines of a training log."""
    losses = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "prompts" in line]
    figure, (left, right) = new_figure(2)
    steps, values = (np.array([e[key] for e in losses]) for key in ("step", "loss"))
    left.plot(steps, values, color=BLUE, alpha=0.25, lw=0.8)
    if window := len(values) // 20:
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        left.plot(steps[window // 2 :][: len(smooth)], smooth, color=BLUE)
    left.set(xlabel="step", ylabel="denoising error", yscale="log")
    for k, prompt in enumerate(evaluations[-1]["prompts"] if evaluations else []):
        color = f"C{k}"
        right.plot([e["step"] for e in evaluations], [e["achieved"][k] for e in evaluations], "o-", ms=3, color=color)
        right.axhline(prompt, color=color, ls=":", lw=1)
    right.set(xlabel="step", ylabel="achieved (dotted: prompted)")
    if evaluations:
        right.set_title(f"alignment {evaluations[-1]['alignment']:.3f}", fontsize=11)
    save_figure(figure, path)
