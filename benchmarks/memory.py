"""How much memory a training needs on a dataset that is larger than memory should be.

    python -m benchmarks.memory --gigabytes 10
    python -m benchmarks.memory --gigabytes 0.1 --gradient-checkpointing

Writes random networks of 7,960 parameters into a temporary dataset, opens it as a training does, fits the scale of the
parameters, and takes steps of 1,024 pairs, each drawn from everywhere in the dataset. Resident memory is read from
/proc every 20 ms: what the process has made (anonymous) and pages of files that are mapped. Beside it, in a process of
its own, the same on a dataset of 0.1 GB: the difference is what a large dataset costs. Linux only. `--folder` has to
have the room; what is written is deleted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import tempfile
import threading
from pathlib import Path
from typing import Any

from benchmarks.synthetic_store import TASK, runs_of_gigabytes, write_random_store
from benchmarks.training_step import Size, TrainingStep
from checkpoints_dataset.facts import fit_normalizer
from checkpoints_dataset.pair_sampler import PairSampler
from checkpoints_dataset.store import CheckpointStore
from g_pt.files.atomic import write_json
from g_pt.runtime.cpu_memory import keep_freed_memory

SMALL = 0.1  # GB
KINDS = {"resident": "VmRSS", "anonymous": "RssAnon", "of files": "RssFile"}


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10.0, help="of the dataset")
    parser.add_argument("--batch-size", type=int, default=1024, help="pairs")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--width", type=int, default=128, help="of the model")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="compute activations anew, backwards")
    parser.add_argument("--folder", type=Path, help="where the dataset is written; the system's temporary folder")
    parser.add_argument("--json", type=Path, help="where the numbers go, besides the table")
    args = parser.parse_args()
    results = {}
    for gigabytes in (SMALL, args.gigabytes):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            results[f"{gigabytes:g} GB"] = in_own_process(Path(folder), gigabytes, args)
    print("| dataset | resident memory at most | anonymous | of files | opening | scale | steps |")
    print("|---|---|---|---|---|---|---|")
    for name, peaks in results.items():
        parts = " | ".join(f"{peaks['all'][kind] / 1e9:.2f} GB" for kind in KINDS)
        phases = " | ".join(f"{peaks[phase]['resident'] / 1e9:.2f} GB" for phase in ("open", "scale", "steps"))
        print(f"| {name} | {parts} | {phases} |")
    if args.json:
        write_json(args.json, results)


def in_own_process(folder: Path, gigabytes: float, args: argparse.Namespace) -> dict[str, Any]:
    """Write the dataset in one new process and train on it in another, so that neither keeps the other's memory."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        pool.apply(write, (folder, gigabytes))
        return pool.apply(train, (folder, args.batch_size, args.steps, args.width, args.gradient_checkpointing))


def write(folder: Path, gigabytes: float) -> None:
    """The dataset."""
    write_random_store(folder, runs_of_gigabytes(gigabytes))


def train(
    folder: Path, batch_size: int, num_steps: int, width: int, checkpointing: bool = False
) -> dict[str, dict[str, int]]:
    """Highest resident memory in bytes, of each kind, in each phase."""
    keep_freed_memory()
    peaks: dict[str, dict[str, int]] = {}
    with Watch() as peaks["open"]:
        store = CheckpointStore(folder)  # reads every byte for its checksum
        sampler = PairSampler(store, "loss", batch_size=batch_size, seed=0)
    with Watch() as peaks["scale"]:
        normalizer = fit_normalizer(store, "global")
    with Watch() as peaks["steps"]:
        step = TrainingStep(Size(width, 4, 4), batch_size, task=TASK)
        step.normalizer = normalizer
        if checkpointing:
            step.model.enable_gradient_checkpointing()
        for number in range(num_steps):
            step(number, sampler.batch(number))
    peaks["all"] = {kind: max(phase[kind] for phase in peaks.values()) for kind in KINDS}
    return peaks


class Watch:
    """The highest resident memory of this process while something runs."""

    def __init__(self, every: float = 0.02) -> None:
        self.every, self.peaks = every, resident_bytes()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def __enter__(self) -> dict[str, int]:
        self.thread.start()
        return self.peaks

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def look(self) -> None:
        """Until it is done, and once more."""
        finished = False
        while not finished:
            finished = self.done.wait(self.every)
            for kind, value in resident_bytes().items():
                self.peaks[kind] = max(self.peaks[kind], value)


def resident_bytes() -> dict[str, int]:
    """Memory of this process that is in RAM, all of it and by kind."""
    status = Path("/proc/self/status").read_text()
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE))
    return {kind: 1024 * int(found[name]) for kind, name in KINDS.items()}


if __name__ == "__main__":
    main()
