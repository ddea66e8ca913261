"""Timing several things in turn, so that a slow minute of the machine meets all of them."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Measured:
    """One line of a table: a rate or a ratio in each of several rounds.

    Attributes:
        what: was measured.
        unit: of the values.
        values: one per round.
    """

    what: str
    unit: str
    values: list[float]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.values)

    def to_json(self) -> dict[str, Any]:
        """With the median and the spread, for files."""
        return {**asdict(self), "median": self.median, "lowest": min(self.values), "highest": max(self.values)}


def seconds_in_turn(
    sides: Mapping[str, Callable[[int], object]], num_rounds: int, *, warm_ups: int = 1
) -> dict[str, list[float]]:
    """Wall-clock seconds of every side in every round; each side is called with the number of the round."""
    for number in range(warm_ups):
        for side in sides.values():
            side(number)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(num_rounds):
        for name, side in sides.items():
            started = time.perf_counter()
            side(number)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(slow: list[float], fast: list[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(slow, fast, strict=True)]


def table(lines: list[Measured]) -> str:
    """Markdown, with the spread over the rounds."""
    rows = []
    for line in lines:
        lowest, highest = figure(min(line.values)), figure(max(line.values))
        rows.append(f"| {line.what} | {figure(line.median)} | {lowest} to {highest} | {line.unit} |")
    return "\n".join(["| what | median | lowest to highest | unit |", "|---|---|---|---|", *rows])


def figure(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """Describe the machine; the load is that of everything that runs, this included."""
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu": platform.machine(),
        "torch": torch.__version__,
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }
