"""Families of tasks: one data set, networks of many sizes.

`digits[64-*-10]` are the networks of `digits` with one hidden layer of any width, `digits[64-*-*-10]` those with two,
`digits[64-**-10]` those with one or more. A member is a task like any other, named by its sizes: `digits[64-24-12-10]`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from g_pt.files.schema import brief
from g_pt.networks.training_facts import size_name
from g_pt.permutations import PermutationSpec
from g_pt.permutations.plans import kinds_of
from g_pt.tasks.base import Task

Hidden = tuple[int, ...]
MOST_LAYERS, MOST_WIDTH = 64, 1_000_000
SPAN = re.compile(r"(\d+)\.\.(\d+)")  # of widths to draw from
DEFAULT_WIDTH = 16
DEEPEST = 2  # layers up to which the kinds of tensors of a family of any depth are looked for


class TaskFamily:
    """Tasks that differ in the widths of their hidden layers, or in their channels.

    Attributes:
        name: base[first-*-last], with `**` in place of the stars for any number of layers.
        base: the task whose data, inits and metrics all members share.
        layers: numbers of hidden layers that members have; None for any from one on.
        default: hidden widths of the member that stands for the family: those of the base where it belongs to it.
    """

    def __init__(self, base: Task, sizes: str) -> None:
        """Parse "64-*-10", "64-*-*-10" or "64-**-10".

        Raises:
            ValueError: the base has no `widths` to change, or the ends are not its own.
        """
        own = getattr(base, "widths", None)
        if not isinstance(own, tuple) or len(own) < 3:
            raise ValueError(f"task {base.name!r} has no hidden widths to change: families need a task with `widths`")
        first, *stars, last = sizes.split("-") if sizes.count("-") > 1 else ("", "", "")
        if (first, last) != (str(own[0]), str(own[-1])) or not (stars == ["**"] or set(stars) == {"*"}):
            raise ValueError(
                f"a family of {base.name!r} must be named {base.name}[{own[0]}-*-{own[-1]}] with one star for each "
                f"hidden layer, or ** for any number of them, got [{brief(sizes)}]"
            )
        self.base, self.name, self.own = base, f"{base.name}[{sizes}]", own
        self.layers = None if stars == ["**"] else len(stars)
        fits = self.layers in (None, len(own) - 2)
        self.default: Hidden = own[1:-1] if fits else (DEFAULT_WIDTH,) * (self.layers or 1)
        self._members: dict[Hidden, Task] = {}
        self._specs: dict[int, PermutationSpec] = {}

    def member(self, hidden: Sequence[int]) -> Task:
        """The task whose networks have these hidden widths.

        Raises:
            ValueError: a width is below 1, or the number of layers is not that of the family.
        """
        hidden = tuple(hidden)
        self.check(hidden)
        if hidden not in self._members:
            self._members[hidden] = self._make(hidden)
        return self._members[hidden]

    def check(self, hidden: Hidden) -> None:
        """Refuse widths that are none, and numbers of layers that the family does not have."""
        if (self.layers is not None and len(hidden) != self.layers) or not 1 <= len(hidden) <= MOST_LAYERS:
            raise ValueError(f"members of {self.name} have {self.layers or 'one or more'} hidden layers, got {hidden}")
        if not all(1 <= width <= MOST_WIDTH for width in hidden):
            raise ValueError(f"hidden widths must be whole numbers from 1, got {hidden}")

    def member_name(self, hidden: Hidden) -> str:
        """`digits[64-24-12-10]`."""
        return f"{self.base.name}[{size_name((self.own[0], *hidden, self.own[-1]))}]"

    def _make(self, hidden: Hidden) -> Task:
        base = type(self.base)
        members: dict[str, Any] = {"name": self.member_name(hidden), "widths": (self.own[0], *hidden, self.own[-1])}
        if hasattr(base, "splits"):  # read once, and only when they are needed
            members["splits"] = property(lambda _: self.base.splits)  # type: ignore[attr-defined]
        task: Task = type(f"{base.__name__}Member", (base,), {**members, "__module__": base.__module__})()
        if len(hidden) in self._specs:
            vars(task)["permutations"] = self._specs[len(hidden)]
        return task

    def permutations(self, hidden: Hidden) -> PermutationSpec:
        """Those of a member: derived once for each number of layers, where they say nothing of sizes."""
        spec = self._specs.get(len(hidden))
        if spec is None:
            spec = self.member(hidden).permutations
            if not any(isinstance(axis, tuple) for axes in spec.axes.values() for axis in axes):
                self._specs[len(hidden)] = spec
        return spec

    def kinds(self) -> dict[str, int]:
        """The kinds of tensors that members have, and the numbers of one unit or edge in each."""
        depths = range(1, DEEPEST + 1) if self.layers is None else (self.layers,)
        found: dict[str, int] = {}
        for depth in depths:
            hidden = (DEFAULT_WIDTH,) * depth
            found |= kinds_of(self.member(hidden).layout, self.permutations(hidden))
        return found

    def hidden_of(self, network: nn.Module | Mapping[str, Tensor]) -> Hidden:
        """Hidden widths of a network, read off its tensors.

        Raises:
            ValueError: it is of no member: other names, or other inputs or outputs.
        """
        tensors = network.state_dict() if isinstance(network, nn.Module) else network
        num_tensors = sum(tensor.is_floating_point() for tensor in tensors.values())
        depths = range(1, MOST_LAYERS + 1) if self.layers is None else (self.layers,)
        for depth in depths:
            probe = tuple(1009 + 2 * i for i in range(depth))  # widths that nothing else has
            layout = self.member(probe).layout
            if self.layers is None and len(layout.names) < num_tensors:
                continue  # a deeper one; what is wrong with others is said below
            found: dict[int, int] = {}
            for name, shape in zip(layout.names, layout.shapes, strict=True):
                if name in tensors and tensors[name].dim() == len(shape):
                    found |= {wide: tensors[name].shape[axis] for axis, wide in enumerate(shape) if wide in probe}
            hidden = tuple(int(found.get(wide, DEFAULT_WIDTH)) for wide in probe)
            self.member(hidden).layout.check(tensors)
            return hidden
        raise ValueError(f"members of {self.name} have up to {MOST_LAYERS} hidden layers, got {num_tensors:,} tensors")


def parse_hidden(texts: Sequence[str], generator: torch.Generator) -> list[Hidden]:
    """Sizes from words: "24,12" for two hidden layers, "8..64:5" for five widths drawn log-uniformly between the ends.

    Spans stand in place of any width: "8..32,8..32:6" are six pairs. Doubles are left out.

    Raises:
        ValueError: a word is none of these.
    """
    found: list[Hidden] = []
    for text in texts:
        widths, _, count = text.partition(":")
        parts = widths.split(",")
        if not all(part.isdecimal() or SPAN.fullmatch(part) for part in parts) or not (count or "1").isdecimal():
            raise ValueError(f"hidden sizes must be like 16, 24,12 or 8..64:5 (five drawn), got {brief(text)}")
        found += [tuple(draw_width(part, generator) for part in parts) for _ in range(int(count or 1))]
    return list(dict.fromkeys(found))


def draw_width(text: str, generator: torch.Generator) -> int:
    """A width, or one drawn log-uniformly from a span "8..64"."""
    span = SPAN.fullmatch(text)
    if span is None:
        return int(text)
    low, high = sorted(map(int, span.groups()))
    return round(max(1, low) * math.exp(float(torch.rand((), generator=generator)) * math.log(high / max(1, low))))
