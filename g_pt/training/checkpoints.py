"""Checkpoints of the training itself: weights, average, optimizer, step. Not to be confused with the data.

A checkpoint is written under a temporary name and renamed, so that a half-written one is never resumed from.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator

from g_pt.atomic_files import TEMPORARY, read_json, write_json
from g_pt.training.config import TrainConfig
from g_pt.training.log import LOG_FILE

CONFIG_FILE = "train_config.json"


class TrainingCheckpoints:
    """The folder `checkpoints/` of a training run."""

    def __init__(
        self,
        config: TrainConfig,
        training_facts: dict[str, Any],
        accelerator: Accelerator,
        stage: Literal["diffusion", "alignment"] = "diffusion",
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.settings = jsonable({**asdict(config), "data": training_facts})
        if stage == "diffusion":
            del self.settings["alignment"]  # it may change once the first stage is done
        self.folder = config.output / "checkpoints"

    def saved_steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        return sorted(int(p.name.removeprefix("step-")) for p in self.folder.glob("step-????????") if p.is_dir())

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.folder / f"step-{step:08d}"

    def start(self, *, resume: bool) -> int:
        """Begin or continue the run of the output folder; returns the number of steps done.

        A run that was killed before its first checkpoint is resumed from step 0.

        Raises:
            OSError: there is a run and it is not to be resumed, or there is none to resume.
            ValueError: the run was made with other settings, or its newest checkpoint is damaged.
        """
        check_output(self.config, resume=resume)
        if resume:
            check_resumable(read_json(self.config.output / CONFIG_FILE), self.settings)
            return self.load_newest()
        if self.accelerator.is_main_process:
            write_json(self.config.output / CONFIG_FILE, self.settings)
        return 0

    def load_newest(self) -> int:
        """Restore the newest checkpoint, if any, into what the accelerator prepared; returns its step."""
        steps = self.saved_steps()
        if not steps:
            return 0
        newest = self.path(steps[-1])
        try:
            self.accelerator.load_state(str(newest))
        except Exception as error:  # accelerate, torch and safetensors each raise their own
            raise ValueError(
                f"{newest} cannot be loaded ({type(error).__name__}): damaged; delete this folder to resume from the "
                "checkpoint before it"
            ) from error
        return steps[-1]

    def save(self, step: int) -> None:
        """Write a checkpoint, then remove the oldest ones."""
        temporary = self.path(step).with_name(self.path(step).name + TEMPORARY)
        if self.accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(temporary))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            shutil.rmtree(self.path(step), ignore_errors=True)
            temporary.rename(self.path(step))
            for old in self.saved_steps()[: -self.config.progress.keep_checkpoints]:
                shutil.rmtree(self.path(old))
        self.accelerator.wait_for_everyone()


def check_output(config: TrainConfig, *, resume: bool) -> None:
    """Refuse to start over an earlier run, and to resume where there is none."""
    has_run = (config.output / CONFIG_FILE).is_file()
    has_results = any((config.output / name).exists() for name in ("checkpoints", "pipeline", LOG_FILE))
    if resume and not has_run:
        raise FileNotFoundError(f"{config.output} holds no run to resume; start without --resume")
    if not resume and has_results:
        raise FileExistsError(
            f"{config.output} holds a training run: continue it with --resume, or name another --output"
        )


def check_replaceable(folder: Path) -> None:
    """Refuse to replace anything but an older pipeline or an empty folder."""
    if not folder.name or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(f"the pipeline needs a folder of its own, got {str(folder)!r}")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "model_index.json").is_file():
        raise FileExistsError(f"{folder} is neither empty nor a saved pipeline: it will not be replaced; name another")


def jsonable(value: Any) -> Any:
    """Nested dicts with paths as strings."""
    if isinstance(value, dict):
        return {key: jsonable(v) for key, v in value.items()}
    return str(value) if isinstance(value, Path) else value


def check_resumable(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse to resume with settings that would give another run; folders and evaluations may change."""
    free = {"dataset", "output", "pipeline", "progress"}
    for section in sorted(new.keys() - free):
        if old.get(section) == new[section]:
            continue
        name, before, now = section, old.get(section), new[section]
        if isinstance(now, dict) and isinstance(before, dict):
            name, before, now = next((f"{section}.{k}", before.get(k), v) for k, v in now.items() if before.get(k) != v)
        raise ValueError(f"cannot resume: the run was started with {name} = {before!r}, now it is {now!r}")
