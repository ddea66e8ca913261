"""Groups of units that are still being found out: merged, cut, coarsened or fixed as a network is read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

from g_pt.permutations.blocks import AxisBlock, Blocks


def fixed(size: int) -> Blocks:
    """An axis that does not move."""
    return (AxisBlock(None, size),)


def axis_size(axis: Blocks) -> int:
    """Number of entries."""
    return sum(block.size for block in axis)


class AxisGroups:
    """The groups found so far: each that turned out to be less free is rewritten as blocks of others.

    Axes are tuples of `AxisBlock`; an axis read earlier stays valid, since `resolve` replaces its groups.
    """

    def __init__(self) -> None:
        self.rewritten: dict[str, Blocks] = {}
        self.num_groups = 0
        self.constant: set[str | None] = set()  # groups of constants that have not met anything else yet

    def fresh(self, units: int, inner: int = 1) -> Blocks:
        """A new group of `units` units, one axis long; nothing if there are none."""
        self.num_groups += 1
        return self.resolve([AxisBlock(f"group{self.num_groups}", units, inner)])

    def is_constant(self, axis: Blocks) -> bool:
        """Whether entries along the axis are all the same, so that it agrees with any order."""
        return all(block.group in self.constant for block in self.resolve(axis))

    def resolve(self, axis: Iterable[AxisBlock]) -> Blocks:
        """The axis in the groups that are valid now; neighbouring fixed blocks are joined."""
        blocks: list[AxisBlock] = []
        for block in axis:
            if not block.units:
                continue
            if block.group in self.rewritten:
                parts = self.rewritten[block.group]
                found = self.resolve(AxisBlock(p.group, p.units, p.inner * block.inner) for p in parts)
            elif block.group is None or block.units == 1:  # a single unit has nowhere to go
                found = fixed(block.size)
            else:
                found = (block,)
            for part in found:
                if part.group is None and blocks and blocks[-1].group is None:
                    blocks[-1] = AxisBlock(None, blocks[-1].size + part.size)
                else:
                    blocks.append(part)
        return tuple(blocks)

    def fix(self, *axes: Blocks) -> None:
        """None of the units on these axes can be moved."""
        for axis in axes:
            for block in self.resolve(axis):
                if block.group is not None:
                    self.rewritten[block.group] = fixed(block.units)

    def cut(self, block: AxisBlock, *places: int) -> None:
        """Units before and after each place are groups of their own."""
        assert block.group is not None
        edges = [0, *places, block.units]
        sizes = [end - start for start, end in itertools.pairwise(edges) if end > start]
        self.rewritten[block.group] = tuple(part for size in sizes for part in self.fresh(size))

    def coarsen(self, block: AxisBlock, factor: int) -> None:
        """Only stretches of `factor` units move, as wholes."""
        assert block.group is not None
        self.rewritten[block.group] = self.fresh(block.units // factor, factor)

    def unify(self, first: Blocks, *others: Blocks) -> Blocks:
        """Make axes of one size move alike, and return the axis."""
        for other in others:
            while not self._agree(self.resolve(first), self.resolve(other)):
                pass  # every step joins, cuts, coarsens or fixes a group, so that it ends
        return self.resolve(first)

    def _agree(self, first: Blocks, second: Blocks) -> bool:
        """Whether two axes move alike; if not, rewrite a group where they differ first."""
        assert axis_size(first) == axis_size(second), f"{first} and {second} differ in size"
        left, right = list(first), list(second)
        while left and right:
            a, b = left[0], right[0]
            if a == b:
                del left[0], right[0]
            elif a.size == b.size:
                self._join(a, b)
                return False
            else:
                long, short = (left, right) if a.size > b.size else (right, left)
                block, size = long[0], short[0].size
                if block.group is None and short[0].group is None:
                    long[0] = AxisBlock(None, block.size - size)
                    del short[0]
                    continue
                if block.group is None:
                    self.fix((short[0],))
                elif size % block.inner:
                    self.fix((block,))
                else:
                    self.cut(block, size // block.inner)
                return False
        return True

    def _join(self, a: AxisBlock, b: AxisBlock) -> None:
        """Two blocks of one size become one."""
        if a.group is None or b.group is None or a.group == b.group:
            self.fix((a, b))
            return
        inner = math.lcm(a.inner, b.inner)  # the smallest whole that both can move
        whole = self.fresh(a.size // inner)[0]
        self.rewritten[a.group] = (AxisBlock(whole.group, whole.units, inner // a.inner),)
        self.rewritten[b.group] = (AxisBlock(whole.group, whole.units, inner // b.inner),)
