"""Pictures of the programs in sample/. Every function takes arrays and writes a PNG, PDF or SVG.

E = ensembles, S = sizes, K = prompts, M = examples, C = classes or actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from torch import Tensor

from g_pt.networks.metrics import Metric
from g_pt.pictures.canvas import BLUE, COLORS, GREY, new_figure, save_figure
from g_pt.pictures.sections import draw_mean

NUM_COLUMNS = 3


def save_ensemble(
    sizes: Sequence[int],
    courses: Mapping[str, Mapping[str, Tensor]],
    metrics: Mapping[str, Metric],
    num_ensembles: int,
    path: Path,
) -> None:
    """Metrics (E, S) of ensembles over their size, by kind and metric: a panel per metric."""
    names = list(next(iter(courses.values())))
    figure, axes = new_figure(len(names))
    for axis, name in zip(axes, names, strict=True):
        for color, (kind, found) in zip(cycle(COLORS[::2]), courses.items(), strict=False):  # the cycle has no end
            draw_mean(axis, sizes, found[name], color, f"samples of {kind}", "o-")
        axis.set_xscale("log", base=2)
        axis.set_xticks(list(sizes), [str(size) for size in sizes])
        axis.minorticks_off()
        axis.set(xlabel="members", ylabel=metrics[name].label)
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"mean prediction of sampled networks; {num_ensembles} ensembles, 95 % intervals, test split")
    save_figure(figure, path)


@dataclass(frozen=True)
class Answers:
    """Answers of networks to M questions, for K prompts.

    Attributes:
        kind: "shares": probabilities, heat maps; "curve": numbers over one input; "numbers": a line per number.
        values: (M, C, K) shares or numbers; of a curve (K, N).
        titles: of the M panels.
        images: (M, height, width) the questions where they are images.
        names: of the C classes or actions.
        inputs: (N,) of a curve, rising.
        points: x and y of the labelled examples behind a curve.
        label: of the axis of classes, actions or numbers.
    """

    kind: Literal["shares", "curve", "numbers"]
    values: Tensor
    titles: Sequence[str]
    label: str
    names: Sequence[str] = ()
    images: Tensor | None = None
    inputs: Tensor | None = None
    points: tuple[Tensor, Tensor] | None = None


def save_sweep(prompts: Tensor, achieved: Tensor, answers: Answers, path: Path, metric: Metric) -> None:
    """Prompted against achieved (K,) of one start, and the answers of its K networks."""
    panels = 1 + len(answers.titles)
    columns = min(NUM_COLUMNS, panels)
    figure, axes = new_figure(columns, -(-panels // columns))
    figure.set_size_inches(4.4 * columns, 3.5 * -(-panels // columns))
    for axis in axes[panels:]:
        axis.set_axis_off()
    ends = [prompts.min().item(), prompts.max().item()]
    axes[0].plot(ends, ends, "--", color=GREY, lw=1, label="identity")
    axes[0].plot(prompts, achieved, "o-", ms=3, color=BLUE, label="one network for each prompt")
    axes[0].set(xlabel=f"prompted {metric.label}", ylabel=f"achieved {metric.label}, test split")
    axes[0].legend(frameon=False, fontsize=8)
    draw = {"shares": draw_shares, "curve": draw_curves, "numbers": draw_numbers}[answers.kind]
    for k, axis in enumerate(axes[1:panels]):
        axis.set_title(answers.titles[k], fontsize=10)
        draw(axis, prompts, answers, k, metric)
    save_figure(figure, path)


def draw_shares(axis: Any, prompts: Tensor, answers: Answers, k: int, metric: Metric) -> None:
    """Probabilities (C, K) of one question as a heat map over prompts, the question itself beside the title."""
    axis.grid(visible=False)
    names = answers.names
    mesh = axis.pcolormesh(prompts, np.arange(len(names)), answers.values[k], vmin=0, vmax=1, cmap="Blues")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel=f"prompted {metric.label}", ylabel=answers.label)
    axis.figure.colorbar(mesh, ax=axis, label="probability")
    if answers.images is not None:
        inset = axis.inset_axes((0.0, 1.02, 0.15, 0.15))
        inset.imshow(answers.images[k], cmap="gray_r")
        inset.set(xticks=[], yticks=[])


def draw_curves(axis: Any, prompts: Tensor, answers: Answers, k: int, metric: Metric) -> None:
    """Predictions over the input, a curve per prompt in the colour of its prompt, and the labelled examples."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    assert answers.inputs is not None
    norm = Normalize(prompts.min().item(), prompts.max().item())
    if answers.points is not None:
        axis.plot(*answers.points, ".", color=GREY, ms=3, label="test examples")
        axis.legend(frameon=False, fontsize=8)
    for prompt, curve in zip(prompts.tolist(), answers.values, strict=True):
        axis.plot(answers.inputs, curve, color=colormaps["viridis"](norm(prompt)), lw=1.2)
    axis.figure.colorbar(ScalarMappable(norm, "viridis"), ax=axis, label=f"prompted {metric.label}")
    axis.set(xlabel="input", ylabel=answers.label)


def draw_numbers(axis: Any, prompts: Tensor, answers: Answers, k: int, metric: Metric) -> None:
    """Numbers (C, K) over prompts, a line each."""
    for color, name, line in zip(cycle(COLORS), answers.names, answers.values[k], strict=False):
        axis.plot(prompts, line, "o-", ms=2.5, color=color, label=name)
    axis.set(xlabel=f"prompted {metric.label}", ylabel=answers.label)
    if len(answers.names) > 1:
        axis.legend(frameon=False, fontsize=8)
