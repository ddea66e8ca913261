"""Sections of a report that was stopped midway: kept beside it until it is finished."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from g_pt.files.atomic import atomic_path, read_json, write_json
from g_pt.report.section import Section, Subject, Table

FOLDER, KEY = ".unfinished", "report.json"


def report_key(subject: Subject, settings: dict[str, Any]) -> str:
    """SHA-256 of all that a report depends on: weights, configuration, training runs, sizes, seed, settings."""
    pipeline, runs = subject.pipeline, subject.runs
    tensors: list[Tensor] = [
        t for part in (pipeline.transformer, pipeline.normalizer) for t in part.state_dict().values()
    ]
    if runs is not None:
        tensors += [runs.training.end_metric, runs.held_out.end_metric]
    sizes = {
        name: getattr(subject, name)
        for name in ("model", "num_networks", "num_prompts", "num_inference_steps", "seed", "optimizer_steps")
    }
    configs = [dict(pipeline.config), dict(pipeline.transformer.config), dict(pipeline.scheduler.config)]
    digest = hashlib.sha256(json.dumps([configs, sizes, settings], sort_keys=True, default=str).encode())
    for tensor in tensors:
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


class UnfinishedReport:
    """Finished sections of a report in a hidden folder of its folder: JSON, and pictures in some formats each."""

    def __init__(self, folder: Path, key: str, formats: Sequence[str]) -> None:
        """Continue what is there under the same key, or begin anew.

        Args:
            folder: of the report.
            key: of `report_key`.
            formats: of the pictures, "png" say; films stay GIFs.
        """
        self.folder, self.formats = folder / FOLDER, formats
        there = (self.folder / KEY).is_file()
        self.continued = there and read_json(self.folder / KEY) == {"key": key}
        self.discarded = there and not self.continued
        if not self.continued:
            self.finish()
            write_json(self.folder / KEY, {"key": key})

    def load(self, name: str) -> tuple[Section | None, float] | None:
        """A finished section (None: not for this model) and its seconds; None where it is not finished."""
        file = self.folder / name / "section.json"
        if not file.is_file():
            return None
        kept = read_json(file)
        if kept["section"] is None:
            return None, kept["seconds"]
        tables = tuple(
            Table(t["title"], tuple(t["columns"]), tuple(map(tuple, t["rows"]))) for t in kept["section"].pop("tables")
        )
        figures = {picture: partial(copy_picture, file.parent / picture) for picture in kept["section"].pop("figures")}
        notes = tuple(kept["section"].pop("notes"))
        return Section(**kept["section"], tables=tables, notes=notes, figures=figures), kept["seconds"]

    def keep(self, name: str, section: Section | None, seconds: float) -> Section | None:
        """Write a finished section; the same one, whose pictures are drawn already, comes back."""
        folder, content = self.folder / name, None
        if section is not None:
            for picture, draw in section.figures.items():
                for suffix in ["gif"] if picture.endswith(".gif") else self.formats:
                    draw((folder / picture).with_suffix("." + suffix))
            fields = asdict(replace(section, figures={}))
            content = {**fields, "figures": list(section.figures)}
            section = replace(
                section, figures={picture: partial(copy_picture, folder / picture) for picture in section.figures}
            )
        write_json(folder / "section.json", {"section": content, "seconds": seconds})  # last: now it is finished
        return section

    def finish(self) -> None:
        """Remove it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def copy_picture(kept: Path, path: Path) -> None:
    """Copy a kept picture, in the format of the path."""
    with atomic_path(path) as temporary:
        shutil.copyfile(kept.with_suffix(path.suffix.lower()), temporary)
