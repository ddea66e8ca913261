"""Films as GIFs.

F = frames, U = units of the first layer.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from torch import Tensor

from g_pt.files.atomic import atomic_path
from g_pt.networks.metrics import Metric
from g_pt.pictures.canvas import BLUE, ORANGE, new_figure, show_words

SMALLEST_IMAGE = 25  # inputs
MILLISECONDS = 120
DPI = 80


def unit_images(weights: Tensor) -> Tensor:
    """First-layer weights (F, U, ...) as one picture per frame, (F, height, width).

    Units whose inputs form an image are tiles, side by side: kernels (F, U, C, h, w), and vectors (F, U, N) with N the
    square of at least 5. Others are rows of one heat map. Gaps between tiles are NaN.
    """
    frames, units = weights.shape[:2]
    if weights.dim() == 5:
        tiles = weights.mean(dim=2)
    else:
        flat = weights.reshape(frames, units, -1)
        side = math.isqrt(flat.shape[2])
        if side * side != flat.shape[2] or flat.shape[2] < SMALLEST_IMAGE:
            return flat
        tiles = flat.view(frames, units, side, side)
    height, width = tiles.shape[2:]
    columns = math.ceil(math.sqrt(units))
    rows = math.ceil(units / columns)
    gap = max(1, height // 8)
    sheet = tiles.new_full((frames, rows * (height + gap) - gap, columns * (width + gap) - gap), math.nan)
    for unit in range(units):
        top, left = (unit // columns) * (height + gap), (unit % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = tiles[:, unit]
    return sheet


def save_latent_walk(weights: Tensor, achieved: Tensor, path: Path, metric: Metric, name: str) -> None:
    """First-layer weights (F, U, ...) on the left, the metric (F,) along the walk on the right."""
    from PIL import Image

    pictures, values = unit_images(weights).numpy(), achieved.numpy()
    limit = float(np.nanquantile(np.abs(pictures), 0.995))
    figure, (left, right) = new_figure(2)
    figure.set_size_inches(8.4, 3.9)
    figure.set_dpi(DPI)
    left.grid(visible=False)
    left.set_axis_off()
    rows_are_units = pictures.shape[1:] == weights[0].flatten(1).shape if weights.dim() > 2 else True
    aspect = "auto" if rows_are_units else None  # few inputs would be a thin strip
    image = left.imshow(pictures[0], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect=aspect)
    rows = " (rows) by their inputs" if rows_are_units else ""
    left.set_title(f"{name}, {weights.shape[1]} units{rows}", fontsize=10)
    right.plot(values, color=BLUE, lw=1.3)
    (dot,) = right.plot([0], [values[0]], "o", color=ORANGE)
    room = max(0.5 * float(values.max() - values.min()), 0.02 * float(np.abs(values).max()), 1e-6)
    right.set(xlabel="frame of the walk", ylabel=f"{metric.label}, test split")
    right.set_ylim(values.min() - room, values.max() + room)
    show_words(figure)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # as it is: to lay out every frame anew takes most of the time
    frames = []
    for k, picture in enumerate(pictures):
        image.set_data(picture)
        dot.set_data([k], [values[k]])
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
        frames.append(Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE, colors=64))
    with atomic_path(path) as temporary:
        frames[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=MILLISECONDS,
            loop=0,
            optimize=True,
        )
