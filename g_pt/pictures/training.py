"""Pictures of a training run, drawn from the lines of its log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from g_pt.pictures.canvas import BLUE, COLORS, GREY, draw_course, new_figure, save_figure, save_training_curve

CURVE_FILE, PROMPTS_FILE, TENSORS_FILE = "curve.png", "prompt_curve.png", "tensors.png"
MOST_TENSORS = 12  # that a picture still tells apart


def draw_curve(lines: list[dict[str, Any]], folder: Path) -> None:
    """Draw the loss, and the achieved metric of each prompt, over steps."""
    save_training_curve(lines, folder / CURVE_FILE)


def draw_evaluations(lines: list[dict[str, Any]], folder: Path) -> dict[str, Path]:
    """Draw the last prompt curve, and the error of each tensor over steps where it was measured: `{name: PNG}`."""
    evaluations = [line for line in lines if "prompts" in line]
    drawn = {}
    if "achieved_low" in evaluations[-1]:
        drawn["prompt_curve"] = folder / PROMPTS_FILE
        save_prompts(evaluations[-1], drawn["prompt_curve"])
    if "held_out_by_tensor" in evaluations[-1]:
        drawn["tensors"] = folder / TENSORS_FILE
        save_tensors(evaluations, drawn["tensors"])
    return drawn


def save_prompts(evaluation: dict[str, Any], path: Path) -> None:
    """Prompted against achieved metric of one evaluation: mean and middle 90 % of the networks."""
    figure, (axis,) = new_figure()
    prompts = evaluation["prompts"]
    ends = [min(prompts), max(prompts)]
    axis.plot(ends, ends, "--", color=GREY, lw=1, label="identity")
    low, high = evaluation["achieved_low"], evaluation["achieved_high"]
    axis.fill_between(prompts, low, high, color=BLUE, alpha=0.2, lw=0, label="middle 90 % of the networks")
    draw_course(axis, prompts, evaluation["achieved"], "o-", color=BLUE, ms=3.5, label="mean after one update")
    axis.set(xlabel="prompted", ylabel="achieved, validation split")
    axis.set_title(f"step {evaluation['step']}: prompt alignment {evaluation['alignment']:.3f}", fontsize=11)
    axis.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def save_tensors(evaluations: list[dict[str, Any]], path: Path) -> None:
    """Denoising error of each tensor over steps, on pairs of held-out runs; of many tensors those that err most."""
    figure, (axis,) = new_figure()
    measured = [line for line in evaluations if "held_out_by_tensor" in line]
    last = measured[-1]["held_out_by_tensor"]
    for k, name in enumerate(sorted(last, key=last.__getitem__, reverse=True)[:MOST_TENSORS]):
        errors = np.array([line["held_out_by_tensor"].get(name, np.nan) for line in measured])
        style, color = ("o-", "s--")[k // len(COLORS) % 2], COLORS[k % len(COLORS)]
        draw_course(axis, [line["step"] for line in measured], errors, style, color=color, ms=3, label=name)
    axis.set(xlabel="step", ylabel="denoising error, held-out runs", yscale="log")
    axis.legend(frameon=False, fontsize=7)
    save_figure(figure, path)
