"""Drawing training pairs: two checkpoints of one run, the earlier as start, the later as target."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from checkpoints_dataset.format import StoreError
from checkpoints_dataset.store import CheckpointStore
from g_pt.model.pairs import CheckpointPairs
from g_pt.tasks.base import Split

IntArray = NDArray[np.int64]


class PairSampler:
    """Pairs of one split, keyed by (seed, step): any step can be drawn again, so that resuming is exact.

    The start is a run's first checkpoint with probability `init_share`, since sampling starts there; otherwise
    it is uniform over all but the last. The target is uniform over the checkpoints after the start.
    """

    def __init__(
        self,
        store: CheckpointStore,
        metric: str,
        *,
        split: Split = "train",
        batch_size: int,
        seed: int,
        init_share: float = 0.3,
        max_runs: int | None = None,
    ) -> None:
        """Prepare to draw.

        Args:
            store: to draw from.
            metric: which metric of the store conditions the model.
            split: of runs.
            batch_size: pairs per step.
            seed: of all draws.
            init_share: probability that a pair starts at the run's first checkpoint.
            max_runs: use only the first runs of the split.
        """
        if metric not in store.metrics:
            raise ValueError(f"{store.folder} has no metric {metric!r}; it has {sorted(store.metrics)}")
        runs = [r for r in store.some_runs_of(split) if r.num_checkpoints >= 2][:max_runs]
        if not runs:
            raise StoreError(f"{store.folder} has no runs of two checkpoints in its {split} split")
        self.store, self.metric = store, store.metrics[metric]
        self.batch_size, self.seed, self.init_share = batch_size, seed, init_share
        self._first = np.array([r.first_row for r in runs])
        self._length = np.array([r.num_checkpoints for r in runs])

    @property
    def num_runs(self) -> int:
        """Runs that pairs are drawn from."""
        return len(self._first)

    def rows(self, step: int) -> tuple[IntArray, IntArray]:
        """Rows of the starts and of the targets of a step, each (batch,)."""
        rng = np.random.default_rng([self.seed, step])
        run = rng.integers(self.num_runs, size=self.batch_size)
        length = self._length[run]
        start = rng.integers(length - 1)
        start = np.where(rng.random(self.batch_size) < self.init_share, 0, start)
        target = rng.integers(start + 1, length)
        return self._first[run] + start, self._first[run] + target

    def batch(self, step: int, part: slice = slice(None)) -> CheckpointPairs:
        """The pairs of a step, or a part of them (one process's share), on the CPU."""
        start, target = (rows[part] for rows in self.rows(step))
        params = self.store.params(np.concatenate([start, target]))
        metric = np.stack([self.metric[start], self.metric[target]])
        return CheckpointPairs.from_stacked(params, metric)
