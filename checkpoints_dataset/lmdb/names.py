"""Names in the reference's data sets against ours: keys of checkpoints, metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from g_pt.networks.metrics import Metric

# the reference's name -> ours; train metrics are those of the mini-batch before the step
METRICS: dict[str, Metric] = {
    "avg_test_loss": Metric("loss", "nats", minimize=True, transform="log"),
    "avg_test_err": Metric("error", "%", minimize=True, transform="log1p"),
    "avg_train_loss": Metric("train_loss", "nats", minimize=True, transform="log"),
    "avg_train_err": Metric("train_error", "%", minimize=True, transform="log1p"),
    "train_ret": Metric("return", "return", minimize=False),
}
THEIR_NAMES = {metric.name: theirs for theirs, metric in METRICS.items()}
KEY = re.compile(r"(?:ep(\d+)_)?it(\d+)\.pt")
NO_EPOCH = -1
LARGEST = 2**31 - 1  # of epochs and steps, which are kept as int32
# names of devices on Windows, whatever follows a dot
RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)


class CheckpointPlace(NamedTuple):
    """When in a run a checkpoint was saved: epoch from 0 (-1 where steps are not counted by epoch) and step in it."""

    epoch: int
    iteration: int

    def key(self, run: str) -> str:
        """The reference's key of the checkpoint."""
        epoch = "" if self.epoch == NO_EPOCH else f"ep{self.epoch:03d}_"
        return f"{run}/{epoch}it{self.iteration:05d}.pt"


def find_place(key: str, run: str) -> CheckpointPlace | None:
    """When the checkpoint of a key was saved; None for keys of another form."""
    match = KEY.fullmatch(key.rpartition("/")[2])
    if match is None:
        return None
    if max(len(match[1] or ""), len(match[2])) > len(str(LARGEST)):
        return None
    place = CheckpointPlace(NO_EPOCH if match[1] is None else int(match[1]), int(match[2]))
    return place if place.key(run) == key and max(place) <= LARGEST else None


def steps_of(places: Sequence[CheckpointPlace], steps_per_epoch: int) -> list[int]:
    """Optimizer steps before each checkpoint of a run, rising.

    A run with a longer epoch than said counts its own epochs as long as the longest that it shows.
    """
    longest = max([steps_per_epoch, *(place.iteration for place in places if place.epoch != NO_EPOCH)])
    return [max(place.epoch, 0) * longest + place.iteration for place in places]


def our_metric(name: str) -> Metric:
    """Our metric of a name in the reference's files; others keep their names, without unit."""
    return METRICS.get(name, Metric(name, unit=""))


def folder_names(names: Mapping[int, str]) -> dict[int, str]:
    """A folder's name for each run `{run: name}`: its own where it is plain, made plain and unlike the others if not.

    A plain name leads nowhere else, is one on every system, and has no "_", by which the reference parts runs.
    """
    found: dict[int, str] = {}
    taken: set[str] = set()
    for run, name in names.items():
        plain = re.sub(r"[^A-Za-z0-9.-]+", "-", name)[:100].strip(".-")
        while not plain or RESERVED.fullmatch(plain) or plain.lower() in taken:
            plain = f"run{plain}-{run:06d}" if RESERVED.fullmatch(plain) else f"{plain}-{run:06d}".lstrip("-")
        taken.add(plain.lower())
        found[run] = plain
    return found
