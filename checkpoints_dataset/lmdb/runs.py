"""Reading the reference's checkpoint data sets: one LMDB folder per run, or for several runs fused.

A folder holds `data.mdb`, `runs.json` and the empty `DONE.txt`; its name is that of its run, or of its runs joined by
"_", where `runs.json` lists by run. Values are the raw float32 bytes of a flat vector, keys are those of `runs.json`,
and `<key>_arch` holds the number of parameters of each tensor, as float32. Only one folder is open at a time,
read-only; nothing is written or deleted.

C = checkpoints of a run, P = parameters per network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from g_pt.files.atomic import read_json
from g_pt.files.schema import Between, brief, one_line, read_object

DATA, RUNS, DONE = "data.mdb", "runs.json", "DONE.txt"
ARCHITECTURE = "_arch"
MAP_SIZE = 10 << 20  # where a file is larger, LMDB maps all of it


class BrokenRunError(ValueError):
    """A run cannot be read; the message names it and says why."""

    def __init__(self, run: str, reason: str) -> None:
        super().__init__(f"run {one_line(run, 80)}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class RunEntries:
    """What `runs.json` must have for a run: metrics of its checkpoints, all of them finite."""

    checkpoints: Annotated[dict[str, dict[str, float]], Between(1)]
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True)
class RunListing:
    """A run in `runs.json`.

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


def names_in(folder: Path) -> list[str]:
    """Names of the runs of a folder: its own, or those that it joins by "_", where its runs.json lists these."""
    parts = folder.name.split("_")
    if len(parts) == 1:
        return parts
    try:
        entries = read_json(folder / RUNS)
    except (OSError, ValueError):  # said later, run by run; the reference numbers its runs
        return parts if all(part.isdigit() for part in parts) else [folder.name]
    if not isinstance(entries, dict) or "checkpoints" in entries:
        return [folder.name]
    return list(entries) if "_".join(entries) == folder.name else parts


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
        self.folders: dict[str, Path] = {}
        for path in folders:
            for name in names_in(path):
                if name in self.folders:
                    raise ValueError(
                        f"{self.folder} has run {brief(name)} twice, in {brief(self.folders[name].name)} and "
                        f"{brief(path.name)}: move one of them away"
                    )
                self.folders[name] = path
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
        if isinstance(entries, dict) and "checkpoints" not in entries:
            entries = entries.get(name)  # fused folders list by run
        try:
            found = read_object(RunEntries, entries, RUNS, ignore_unknown=True)
        except ValueError as error:
            raise BrokenRunError(name, f"{RUNS} has no checkpoints with metrics for it ({error})") from error
        values = list(found.checkpoints.values())
        common = [m for m in values[0] if all(m in of_one for of_one in values)]
        metrics = {m: tuple(of_one[m] for of_one in values) for m in common}
        return RunListing(name, tuple(found.checkpoints), metrics, found.metadata or {})

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
                    f"{brief(key)} must have {num_params} float32 ({4 * num_params} bytes), got {len(value)} bytes",
                )
            if not num_params:
                raise BrokenRunError(listing.name, f"{brief(key)} has no parameters")
            rows.append(np.frombuffer(value, dtype="<f4"))
        return torch.from_numpy(np.stack(rows))

    def tensor_sizes(self, listing: RunListing, num_params: int) -> tuple[int, ...] | None:
        """Numbers of parameters of the networks' tensors; None where the run does not say.

        Raises:
            BrokenRunError: they are no sizes, or not those of `num_params` parameters.
        """
        value = self._value(listing.name, listing.keys[0] + ARCHITECTURE, required=False)
        if value is None:
            return None
        sizes = np.frombuffer(value[: len(value) // 4 * 4], dtype="<f4")
        if len(value) % 4 or not ((sizes >= 1) & (sizes <= num_params) & (sizes == np.floor(sizes))).all():
            raise BrokenRunError(
                listing.name, f"{ARCHITECTURE} must list sizes of tensors, got {brief(sizes.tolist())}"
            )
        if (found := sum(int(size) for size in sizes)) != num_params:
            raise BrokenRunError(
                listing.name, f"{ARCHITECTURE} lists {found} parameters, its vectors have {num_params}"
            )
        return tuple(int(size) for size in sizes)

    def _runs_json(self, name: str, folder: Path) -> Any:
        if self._listed is None or self._listed[0] != folder:
            try:
                self._listed = (folder, read_json(folder / RUNS))
            except FileNotFoundError as error:
                raise BrokenRunError(name, f"no {RUNS}") from error
            except (OSError, ValueError) as error:
                raise BrokenRunError(name, f"{RUNS} cannot be read ({error})") from error
        return self._listed[1]

    def _value(self, name: str, key: str, *, required: bool = True) -> Any:
        try:
            with self._opened(name).begin() as transaction:
                value = transaction.get(key.encode())
        except (self.lmdb.Error, UnicodeEncodeError) as error:
            raise BrokenRunError(name, f"{DATA} is damaged ({one_line(str(error), 120)})") from error
        if value is None and required:
            raise BrokenRunError(name, f"{brief(key)} is listed in {RUNS}, but {DATA} does not have it")
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
