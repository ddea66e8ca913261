"""Trackers that Accelerate knows, told of what log.jsonl is told of: TensorBoard, Weights & Biases, Trackio."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from g_pt.files.atomic import read_json, write_json

ID_FILE = "tracker_run.json"
# packages of which one must be there, by tracker
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are not installed, of which Accelerate would only warn.

    Raises:
        ValueError: so it is; the message says what to install.
    """
    for name in names:
        if not any(find_spec(package) for package in PACKAGES[name]):
            raise ValueError(f'progress.report_to: {name} is not installed; pip install "g-pt[{name}]"')


class Trackers:
    """The trackers of an Accelerator, as a listener of the log."""

    def __init__(self, accelerator: Accelerator, output: Path, settings: dict[str, Any], first_step: int) -> None:
        """Start or continue the trackers' run; their project is the task, their run the output folder.

        Args:
            accelerator: made with the names of the trackers.
            output: folder of the stage.
            settings: shown with the run; names the task.
            first_step: steps done already; what TensorBoard has of later ones is dropped.
        """
        self.accelerator = accelerator
        if not accelerator.log_with:
            return
        identity = run_identity(output, accelerator)
        options = {
            "tensorboard": {"purge_step": first_step + 1},
            "wandb": {"name": str(output), "id": identity, "resume": "allow", "dir": str(output)},
            "trackio": {"name": f"{output}-{identity}", "resume": "allow"},
        }
        accelerator.init_trackers(f"g-pt-{settings['task']}", config=flat(settings), init_kwargs=options)

    def line(self, line: dict[str, Any]) -> None:
        """Log the numbers of a line."""
        values = flat({key: value for key, value in line.items() if key != "step"})
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        self.accelerator.log(numbers, step=line["step"])

    def pictures(self, step: int, pictures: dict[str, Path]) -> None:
        """Log PNG files to the trackers that take images."""
        for tracker in self.accelerator.trackers:
            log_images = getattr(tracker, "log_images", None)
            if log_images is None:
                continue
            options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            log_images({name: pixels(path) for name, path in pictures.items()}, step=step, **options)

    def finish(self) -> None:
        """End the trackers' run, and leave the process group to a next stage."""
        if self.accelerator.is_main_process:
            for tracker in self.accelerator.trackers:
                tracker.finish()


def run_identity(folder: Path, accelerator: Accelerator) -> str:
    """A name that no other run has and a resumed run has again."""
    path = folder / ID_FILE
    if accelerator.is_main_process and not path.exists():
        write_json(path, {"id": uuid.uuid4().hex[:12]})
    accelerator.wait_for_everyone()
    return str(read_json(path)["id"])


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings or measurements as `{"a/b": number or text}`; entries of lists are numbered."""
    if isinstance(values, dict):
        items = values.items()
    elif isinstance(values, list | tuple):
        items = {f"{i:02d}": value for i, value in enumerate(values)}.items()
    else:
        return {prefix: values if isinstance(values, bool | int | float | str) else str(values)}
    found: dict[str, Any] = {}
    for key, value in items:
        found |= flat(value, f"{prefix}/{key}" if prefix else str(key))
    return found


def pixels(path: Path) -> np.ndarray[Any, Any]:
    """A PNG as one image of a batch: (1, height, width, 3) uint8."""
    from matplotlib.image import imread

    return (imread(path)[None, ..., :3] * 255).round().astype(np.uint8)
