"""Reading the reference's checkpoint data sets: one LMDB folder per run, or for several runs fused.

A folder holds `data.mdb`, `runs.json` and the empty `DONE.txt`; its name is that of its run, or of its runs joined by
"_". Values are the raw float32 bytes of a flat vector, keys are those of `runs.json`, and `<key>_arch` holds the number
of parameters of each tensor, as float32. Only one folder is open at a time, read-only; nothing is written or deleted.

C = checkpoints of a run, P = parameters per network.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

DATA, RUNS, DONE = "data.mdb", "runs.json", "DONE.txt"
ARCHITECTURE = "_arch"
MAP_SIZE = 10 << 20  # where a file is larger, LMDB maps all of it


class BrokenRunError(ValueError):
    """A run cannot be read; the message names it and says why."""

    def __init__(self, run: str, reason: str) -> None:
        super().__init__(f"run {run}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class RunListing:
    """What `runs.json` says about a run.

    Attributes:
        name: of the run.
        keys: of its checkpoints, in the order of the file, which is that of time.
        metrics: `{the reference's name: C values}`, of those that all checkpoints have.
        metadata: of the whole run, as in the file.
    """

    name: str
    keys: tuple[str, ...]
    metrics: dict[str, tuple[float, ...]]
    metadata: dict[str, Any] = field(default_factory=dict)


def import_lmdb() -> Any:
    """The package `lmdb`, which is not installed by default."""
    try:
        import lmdb
    except ImportError as error:
        raise ValueError('reading the reference\'s data sets needs lmdb: pip install "g-pt[reference]"') from error
    return lmdb


class LmdbRuns:
    """The runs of a folder, in the reference's order: folders by name, fused runs by their place in the name.

    Attributes:
        names: of all runs, readable or not.
    """

    def __init__(self, folder: Path | str) -> None:
        """List the runs; nothing is opened yet.

        Raises:
            ValueError: there is no such folder, or no folder in it; or `lmdb` is not installed.
        """
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"there is no folder {self.folder}")
        self.lmdb = import_lmdb()
        folders = sorted(p for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        self.folders = {name: path for path in folders for name in path.name.split("_")}
        self.names = tuple(self.folders)
        if not self.names:
            raise ValueError(
                f"{self.folder} has no folders of runs in it; name the folder that holds 000000, 000001, ..."
            )
        self._environment: Any = None
        self._open: Path | None = None
        self._listed: tuple[Path, Any] | None = None

    def __enter__(self) -> LmdbRuns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the folder that is open."""
        if self._environment is not None:
            self._environment.close()
        self._environment = self._open = None

    def split(self, num_test_runs: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the train and of the test runs; the last are for test.

        Raises:
            ValueError: not fewer test runs than runs.
        """
        if not 0 <= num_test_runs < len(self.names):
            raise ValueError(f"num_test_runs must lie in 0 to {len(self.names) - 1}, got {num_test_runs}")
        first_test = len(self.names) - num_test_runs
        return self.names[:first_test], self.names[first_test:]

    def listing(self, name: str) -> RunListing:
        """Read what `runs.json` says about a run.

        Raises:
            BrokenRunError: the run is unfinished (no DONE.txt), or its runs.json is missing or damaged.
        """
        folder = self.folders[name]
        if not (folder / DONE).exists():
            raise BrokenRunError(name, f"no {DONE}: its making was not finished")
        entries = self._runs_json(name, folder)
        try:
            entries = entries.get(name, entries)  # fused folders list by run
            checkpoints = entries["checkpoints"]
            keys = tuple(checkpoints)
            common = [m for m in checkpoints[keys[0]] if all(m in values for values in checkpoints.values())]
            metrics = {m: tuple(float(values[m]) for values in checkpoints.values()) for m in common}
            metadata = dict(entries.get("metadata") or {})
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise BrokenRunError(name, f"{RUNS} has no checkpoints with metrics for it ({error!r})") from error
        return RunListing(name, keys, metrics, metadata)

    def params(self, listing: RunListing, num_params: int | None = None) -> Tensor:
        """Read all vectors of a run: (C, P) float32, raw, bit for bit.

        Args:
            listing: of the run.
            num_params: P that every vector must have; that of the first where not given.

        Raises:
            BrokenRunError: data.mdb is missing, truncated or damaged, or a vector is missing or of another length.
        """
        rows = []
        for key in listing.keys:
            value = self._value(listing.name, key)
            num_params = num_params or len(value) // 4
            if len(value) != 4 * num_params:
                raise BrokenRunError(
                    listing.name,
                    f"{key!r} must have {num_params} float32 ({4 * num_params} bytes), got {len(value)} bytes",
                )
            rows.append(np.frombuffer(value, dtype="<f4"))
        return torch.from_numpy(np.stack(rows))

    def tensor_sizes(self, listing: RunListing) -> tuple[int, ...] | None:
        """Numbers of parameters of the networks' tensors; None where the run does not say."""
        value = self._value(listing.name, listing.keys[0] + ARCHITECTURE, required=False)
        return None if value is None else tuple(int(size) for size in np.frombuffer(value, dtype="<f4"))

    def _runs_json(self, name: str, folder: Path) -> Any:
        if self._listed is None or self._listed[0] != folder:
            try:
                self._listed = (folder, json.loads((folder / RUNS).read_text()))
            except FileNotFoundError as error:
                raise BrokenRunError(name, f"no {RUNS}") from error
            except (OSError, ValueError) as error:
                raise BrokenRunError(name, f"{RUNS} cannot be read ({error})") from error
        return self._listed[1]

    def _value(self, name: str, key: str, *, required: bool = True) -> Any:
        try:
            with self._opened(name).begin() as transaction:
                value = transaction.get(key.encode())
        except self.lmdb.Error as error:
            raise BrokenRunError(name, f"{DATA} is damaged ({error})") from error
        if value is None and required:
            raise BrokenRunError(name, f"{key!r} is listed in {RUNS}, but {DATA} does not have it")
        return value

    def _opened(self, name: str) -> Any:
        folder = self.folders[name]
        if self._open != folder:
            self.close()
            file = folder / DATA
            if not file.is_file():
                raise BrokenRunError(name, f"no {DATA}")
            self._environment = self.lmdb.open(
                str(folder), map_size=MAP_SIZE, readonly=True, lock=False, readahead=False, create=False
            )
            self._open = folder
            needed = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
            if file.stat().st_size < needed:  # reading what is mapped behind the end would kill the process
                self.close()
                raise BrokenRunError(name, f"{DATA} must have {needed} bytes, got {file.stat().st_size}: truncated")
        return self._environment
