"""Checkpoints of the training itself: weights, average, optimizer, step. Not to be confused with the data.

A checkpoint is written under a temporary name and renamed, so that a half-written one is never resumed from. It lists
its files with their SHA-256, so that a damaged one is not resumed from either: the one before it is.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator

from g_pt.files.atomic import fingerprint, named_disk_errors, read_json, read_json_object, remove_leftovers, write_json
from g_pt.files.folder_lock import folder_lock
from g_pt.files.schema import brief
from g_pt.hub.download import CARD_FILE, INDEX_FILE, REPORT_FILE
from g_pt.model.model_folders import CLASSES, PIPELINE_CLASS, SHIM, WEIGHTS
from g_pt.runtime.processes import Team
from g_pt.training.accelerators import is_sharded
from g_pt.training.log import LOG_FILE

CONFIG_FILE = "train_config.json"
FILES_FILE = "files.json"
DAMAGED = ".damaged"
STEP_FOLDER = re.compile(r"step-([0-9]{8})")
PART_FILE = re.compile(rf"(scheduler_)?config\.json|{WEIGHTS.pattern}(\.index\.json)?|{SHIM}\.py")


@runtime_checkable
class Saved(Protocol):
    """State to save beside that of the accelerator."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and lists of them."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        ...


class TrainingCheckpoints:
    """The folder `checkpoints/` of a training run."""

    def __init__(
        self,
        output: Path,
        settings: dict[str, Any],
        accelerator: Accelerator,
        states: Mapping[str, Saved] | None = None,
        *,
        keep: int = 2,
    ) -> None:
        """Look at a run's folder.

        Args:
            output: folder of the run.
            settings: as JSON; a resumed run must have those it was started with.
            accelerator: has prepared the model and its optimizer.
            states: saved as `NAME.pt`; where the model is sharded every process saves its own.
            keep: checkpoints; older ones are removed.
        """
        self.output, self.settings, self.accelerator, self.keep = output, settings, accelerator, keep
        self.states = dict(states or {})
        self.folder = output / "checkpoints"

    def saved_steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        found = (STEP_FOLDER.fullmatch(path.name) for path in self.folder.glob("step-*") if path.is_dir())
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.folder / f"step-{step:08d}"

    def start(self, *, resume: bool) -> int:
        """Begin or continue the run of the output folder; returns the number of steps done.

        A run that was killed before its first checkpoint is resumed from step 0.

        Raises:
            OSError: there is a run and it is not to be resumed, or there is none to resume.
            ValueError: the run was made with other settings, or all its checkpoints are damaged.
        """
        check_output(self.output, resume=resume)
        if resume:
            check_resumable(read_json(self.output / CONFIG_FILE), self.settings)
        step = self.load_newest() if resume else 0
        self.accelerator.wait_for_everyone()  # or a slow process would find the settings of this very run
        if not step and self.accelerator.is_main_process:  # also over those without the data, see `begin`
            write_json(self.output / CONFIG_FILE, self.settings)
        return step

    def load_newest(self) -> int:
        """Restore the newest whole checkpoint, if any, into what the accelerator prepared; returns its step."""
        team = Team(self.accelerator.process_index, self.accelerator.num_processes)
        step = team.from_first(self.newest_whole() if team.is_first else 0)
        if step < 0:
            raise ValueError(
                f"all checkpoints in {self.folder} are damaged, or of an older version; delete the folder to start "
                "from step 0"
            )
        if step:
            self.load(self.path(step))
        return step

    def newest_whole(self) -> int:
        """Step of the newest checkpoint that is as it was written, 0 where there is none, -1 where all are damaged.

        Damaged ones are renamed, with a warning.
        """
        steps = self.saved_steps()
        for step in reversed(steps):
            damage = find_damage(self.path(step))
            if damage is None:
                return step
            warnings.warn(f"skipped {self.path(step)}, which is damaged: {damage}", stacklevel=2)
            if step != steps[0]:  # the last hope is left where it is
                self.path(step).rename(self.path(step).with_name(self.path(step).name + DAMAGED))
        return -1 if steps else 0

    def load(self, folder: Path) -> None:
        """Restore a checkpoint into what the accelerator prepared and into `states`."""
        try:
            self.accelerator.load_state(str(folder))
            for name, state in self.states.items():
                state.load_state_dict(torch.load(self.state_file(folder, name), map_location="cpu", weights_only=True))
        except Exception as error:  # accelerate, torch and safetensors each raise their own
            raise ValueError(
                f"{folder} cannot be loaded ({type(error).__name__}), though it is as it was written: it was made by "
                "another version, or by another number of processes of a sharded model"
            ) from error

    def state_file(self, folder: Path, name: str) -> Path:
        """Where a state of this process is."""
        suffix = f"-{self.accelerator.process_index:05d}" if is_sharded(self.accelerator) else ""
        return folder / f"{name}{suffix}.pt"

    def save(self, step: int) -> None:
        """Write a checkpoint durably, then remove the oldest ones; all processes call this."""
        with named_disk_errors(self.path(step)):
            self.write(step)

    def write(self, step: int) -> None:
        """The work of `save`."""
        accelerator, path = self.accelerator, self.path(step)
        if accelerator.is_main_process:
            check_still_there(self.output)
        temporary = path.with_name(f"{path.name}.tmp")  # the same in all processes; the folder around it is ours
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(temporary))
        if accelerator.is_main_process or is_sharded(accelerator):
            for name, state in self.states.items():
                torch.save(state.state_dict(), self.state_file(temporary, name))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_json(temporary / FILES_FILE, fingerprints(temporary))
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
            for old in self.saved_steps()[: -self.keep]:
                shutil.rmtree(self.path(old))
        accelerator.wait_for_everyone()


def begin(output: Path, settings: dict[str, Any]) -> None:
    """Say in the output folder that a run has begun whose data are still to be made, so that it can be resumed."""
    with named_disk_errors(output):
        write_json(output / CONFIG_FILE, {key: value for key, value in settings.items() if key != "data"})


def check_still_there(output: Path) -> None:
    """Refuse to go on with a run whose folder was removed: what it has written is gone.

    Raises:
        FileNotFoundError: it was.
    """
    if not (output / CONFIG_FILE).exists():
        raise FileNotFoundError(f"{output} was removed, or emptied, while the training wrote to it: it cannot go on")


def fingerprints(folder: Path) -> dict[str, Any]:
    """Size and SHA-256 of every file below a folder, each on the disk by now."""
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
        found[file.relative_to(folder).as_posix()] = fingerprint(file)
    return found


def find_damage(folder: Path) -> str | None:
    """Describe the damage of a checkpoint; None where there is none."""
    try:
        wanted = read_json(folder / FILES_FILE)
        for name, entry in wanted.items():
            if fingerprint(folder / name) != entry:
                return f"{name} is not as it was written"
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return None


@contextmanager
def training_lock(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Let no other training write to a folder until the block ends; the first process holds the lock for all.

    The lock is of the process that trains: where only its launcher was killed, the folder stays locked.

    Raises:
        FolderBusyError: another training is writing there; in every process.
    """
    team, error = Team(accelerator.process_index, accelerator.num_processes), None
    with ExitStack() as stack:
        if team.is_first:
            try:
                stack.enter_context(folder_lock(folder, "training"))
                remove_leftovers(folder)
            except (ValueError, OSError) as problem:
                error = problem
        if (error := team.from_first(error)) is not None:
            raise error
        yield


def check_output(output: Path, *, resume: bool) -> None:
    """Refuse to start over an earlier run, and to resume where there is none."""
    has_run = (output / CONFIG_FILE).is_file()
    has_results = any((output / name).exists() for name in ("checkpoints", "pipeline", LOG_FILE))
    if resume and not has_run:
        raise FileNotFoundError(f"{output} holds no run to resume; start without --resume")
    if not resume and has_results:
        raise FileExistsError(f"{output} holds a training run: continue it with --resume, or name another --output")


def check_replaceable(folder: Path) -> None:
    """Refuse to replace anything but an older pipeline, with nothing of the user's in it, or an empty folder."""
    if not folder.name or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(f"the pipeline needs a folder of its own, got {str(folder)!r}")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not is_pipeline(folder):
        raise FileExistsError(f"{folder} is neither empty nor a saved pipeline: it will not be replaced; name another")
    others = [path for path in sorted(folder.rglob("*")) if not is_of_pipeline(path.relative_to(folder).as_posix())]
    if others:
        raise FileExistsError(
            f"{folder} holds {brief(others[0].relative_to(folder).as_posix())}, which is no part of a saved pipeline: "
            "it will not be replaced; move that away, or name another folder"
        )


def is_pipeline(folder: Path) -> bool:
    """Whether the folder's index is that of one of our pipelines."""
    try:
        index = read_json_object(folder / INDEX_FILE)
    except (OSError, ValueError):
        return False
    return index.get("_class_name") in (PIPELINE_CLASS, [SHIM, PIPELINE_CLASS])


def is_of_pipeline(name: str) -> bool:
    """Whether a path in a pipeline's folder is one that saving, uploading or evaluating a pipeline writes."""
    part, slash, file = name.partition("/")
    if not slash:
        return name in (*CLASSES, INDEX_FILE, REPORT_FILE, f"{SHIM}.py", CARD_FILE)
    return part in CLASSES and (PART_FILE.fullmatch(file) is not None or file == "__pycache__")


def jsonable(value: Any) -> Any:
    """Nested dicts with paths as strings, and lists, as a file has them."""
    if isinstance(value, dict):
        return {key: jsonable(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def check_resumable(old: Any, new: dict[str, Any]) -> None:
    """Refuse to resume with settings that would give another run; folders and evaluations may change.

    Where the earlier settings have no data, the run was stopped while these were made.

    Raises:
        ValueError: settings differ, or the earlier ones are none.
    """
    if not isinstance(old, dict):
        raise ValueError(f"cannot resume: {CONFIG_FILE} must hold the settings of the run, got {brief(old)}")
    free = {"dataset", "output", "pipeline", "progress"} | ({"data"} - set(old))
    for section in sorted(new.keys() - free):
        if old.get(section) == new[section]:
            continue
        name, before, now = section, old.get(section), new[section]
        if isinstance(now, dict) and isinstance(before, dict):
            name, before, now = next((f"{section}.{k}", before.get(k), v) for k, v in now.items() if before.get(k) != v)
        raise ValueError(f"cannot resume: the run was started with {name} = {shown(before)}, now it is {shown(now)}")


def shown(value: Any) -> str:
    """A setting in a message."""
    return brief(value, 200)
