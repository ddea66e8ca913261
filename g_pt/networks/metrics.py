"""Metrics of a network: unit, direction, and the transform under which the model sees a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from g_pt.files.schema import Between, OneLine, read_object

Transform = Literal["identity", "log", "log1p"]

LOWEST = 1e-6  # what smaller values are taken for where the model sees the logarithm

# The reference embeds raw values; sinusoids of a raw loss resolve 2.3 and 2.2 better than 0.10 and 0.05,
# although the second step is the longer way for an optimizer.
TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda value: value,
    "log": lambda value: value.clamp(min=LOWEST).log(),
    "log1p": lambda value: value.clamp(min=0.0).log1p(),
}
INVERSES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda value: value,
    "log": torch.exp,
    "log1p": torch.expm1,
}


@dataclass(frozen=True)
class Metric:
    """A number measured on a network.

    Attributes:
        name: as in files, flags (`--prompt-<name>`) and plots.
        unit: "nats", "%", "return".
        minimize: whether smaller is better.
        transform: applied before the value is embedded; "log" for positive values over several orders of
            magnitude, "log1p" for such values that can be 0, "identity" otherwise.
        scale: the value is divided by it before the transform; with "identity" the model's embedding wants a range of
            a few units, since its frequencies begin at 1.
    """

    name: Annotated[str, Between(1, 100), OneLine()]
    unit: Annotated[str, Between(0, 100), OneLine()]
    minimize: bool = True
    transform: Transform = "identity"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 1e-30 <= self.scale <= 1e30:
            raise ValueError(f"metric scale must be a positive number, 1e-30 to 1e30, got {self.scale}")
        if self.transform not in TRANSFORMS:
            raise ValueError(f"metric transform must be one of {sorted(TRANSFORMS)}, got {self.transform!r}")

    @classmethod
    def from_json(cls, entries: Any) -> Metric:
        """Inverse of `to_json`.

        Raises:
            ValueError: an entry is missing, unknown, or of another type.
        """
        return read_object(cls, entries, "metric")

    @property
    def label(self) -> str:
        """Name and unit, as axes and tables have them; the unit is left out where it is the name."""
        return self.name if self.unit in ("", self.name) else f"{self.name} ({self.unit})"

    def embedded(self, value: Tensor) -> Tensor:
        """The transformed value, in which equal distances are about equally hard."""
        return TRANSFORMS[self.transform](value.to(torch.float32) / self.scale)

    def unembedded(self, value: Tensor) -> Tensor:
        """The metric whose transformed value this is."""
        return INVERSES[self.transform](value) * self.scale

    def best(self, values: Tensor) -> Tensor:
        """The best of the values over the last axis."""
        return values.amin(-1) if self.minimize else values.amax(-1)

    def argbest(self, values: Tensor) -> Tensor:
        """Where the best of the values is, over the last axis."""
        return values.argmin(-1) if self.minimize else values.argmax(-1)

    def best_first(self, low: float, high: float) -> tuple[float, float]:
        """A range of the metric, from its better end to its worse."""
        return (low, high) if self.minimize else (high, low)

    def to_json(self) -> dict[str, Any]:
        """Plain dict, as kept beside data and models; a scale of 1 is not written, as files older than it have none."""
        entries = asdict(self)
        if self.scale == 1:
            del entries["scale"]
        return entries
