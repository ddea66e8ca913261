"""Checkpoint datasets: harvesting, storing and drawing training pairs. Names are imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from g_pt.lazy_names import lazy_names

if TYPE_CHECKING:
    from checkpoints_dataset.config import HarvestConfig as HarvestConfig
    from checkpoints_dataset.pair_sampler import PairSampler as PairSampler
    from checkpoints_dataset.recorder import CheckpointRecorder as CheckpointRecorder
    from checkpoints_dataset.store import CheckpointStore as CheckpointStore
    from checkpoints_dataset.writer import DatasetWriter as DatasetWriter

_HOMES = {
    "CheckpointRecorder": "checkpoints_dataset.recorder",
    "CheckpointStore": "checkpoints_dataset.store",
    "DatasetWriter": "checkpoints_dataset.writer",
    "HarvestConfig": "checkpoints_dataset.config",
    "PairSampler": "checkpoints_dataset.pair_sampler",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)
