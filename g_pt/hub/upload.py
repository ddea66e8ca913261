"""Uploading a model: its files, a card, the report, and one-line shims for diffusers without this package's class."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g_pt.files.atomic import read_json, write_json
from g_pt.hub.download import hub_errors
from g_pt.hub.model_card import model_card
from g_pt.model.model_folders import CLASSES, INDEX_FILE, PIPELINE_CLASS, REPORT_FILE, SHIM

if TYPE_CHECKING:
    from g_pt.model.pipeline import ParameterUpdatePipeline


def upload_model(
    pipeline: ParameterUpdatePipeline,
    repo_id: str,
    *,
    report: dict[str, Any] | None = None,
    license: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
) -> str:
    """Create the repository where it does not exist and commit the model; returns its address.

    Args:
        pipeline: the model.
        repo_id: "org/name".
        report: what `gpt-evaluate --json` wrote; goes into the card and beside the model.
        license: identifier for the card, "apache-2.0" say.
        private: of a new repository.
        revision: branch to commit to.
        token: of the account; the one of `hf auth login` where not given.
        endpoint: another Hub.

    Raises:
        OSError: the Hub refused it or is out of reach.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, token=token, library_name="g-pt")
    with tempfile.TemporaryDirectory() as folder:
        write_upload(pipeline, Path(folder), repo_id, report=report, license=license)
        with hub_errors(repo_id, revision=revision):
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message=f"Upload {PIPELINE_CLASS}"
            )
    return f"{api.endpoint}/{repo_id}"


def write_upload(
    pipeline: ParameterUpdatePipeline,
    folder: Path,
    repo_id: str,
    *,
    report: dict[str, Any] | None = None,
    license: str | None = None,
) -> None:
    """Write the files of an upload: the model, its shims, the report and the card."""
    pipeline.save_pretrained(folder)
    for path in (folder / INDEX_FILE, *folder.glob("*/*config.json")):
        entries = read_json(path)
        if entries.pop("_name_or_path", None) is not None:  # the folder on this machine that diffusers remembers
            write_json(path, entries)
    write_shims(folder)
    if report is not None:
        write_json(folder / REPORT_FILE, report)
    (folder / "README.md").write_text(model_card(pipeline, repo_id, report=report, license=license), encoding="utf-8")


def write_shims(folder: Path) -> None:
    """Let `DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)` find the classes.

    Diffusers imports a class that it does not know from a file of the repository. These files have one line, an import
    of this package, which must be installed; nothing here ever runs them.
    """
    path = folder / INDEX_FILE
    index = read_json(path)
    index["_class_name"] = [SHIM, PIPELINE_CLASS]
    (folder / f"{SHIM}.py").write_text(f"from g_pt import {PIPELINE_CLASS}  # noqa: F401\n")
    for part, classes in CLASSES.items():
        module, name = classes[index[part][1]], index[part][1]
        if module != "diffusers":
            index[part] = [SHIM, name]
            (folder / part / f"{SHIM}.py").write_text(f"from g_pt import {name}  # noqa: F401\n")
    write_json(path, index)


def saved_report(folder: Path) -> dict[str, Any] | None:
    """The report beside a model, where `gpt-evaluate --json FOLDER/report.json` put one.

    Raises:
        ValueError: the file is no JSON object.
    """
    path = folder / REPORT_FILE
    return read_report(path) if path.is_file() else None


def read_report(path: Path) -> dict[str, Any]:
    """What `gpt-evaluate --json FILE` wrote.

    Raises:
        ValueError: the file is no report.
    """
    report = read_json(path)
    if not isinstance(report, dict) or "prompt_alignment" not in report:
        raise ValueError(f"{path} must be a report of gpt-evaluate --json; got {json.dumps(report)[:60]}")
    return report
