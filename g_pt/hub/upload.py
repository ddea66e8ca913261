"""Uploading the folder of a model, with a card and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from g_pt.files.atomic import read_json, write_json
from g_pt.hub.download import CARD_FILE, INDEX_FILE, REPORT_FILE, WRITE_SECONDS, hub_errors


def upload_model(
    folder: Path,
    repo_id: str,
    card: str,
    *,
    report: dict[str, Any] | None = None,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
) -> str:
    """Create the repository where it does not exist and commit the model; returns its address.

    Args:
        folder: a saved model; the card and the report are added to it.
        repo_id: "org/name".
        card: Markdown, as `g_pt.hub.model_card` writes it.
        report: what `gpt-evaluate --json` wrote.
        private: of a new repository.
        revision: branch to commit to.
        token: of the account; the one of `hf auth login` where not given.
        endpoint: another Hub.

    Raises:
        OSError: the Hub refused it or is out of reach.
    """
    from huggingface_hub import HfApi

    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    if report is not None:
        write_json(folder / REPORT_FILE, report)
    forget_paths(folder)
    api = HfApi(endpoint=endpoint, token=token, library_name="g-pt")
    with hub_errors(repo_id, revision=revision, seconds=WRITE_SECONDS):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        message = "Upload ParameterUpdatePipeline"
        api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message)
    return f"{api.endpoint}/{repo_id}"


def forget_paths(folder: Path) -> None:
    """Remove from the configurations the folder on this machine that diffusers remembers."""
    for path in (folder / INDEX_FILE, *folder.glob("*/*config.json")):
        entries = read_json(path)
        if entries.pop("_name_or_path", None) is not None:
            write_json(path, entries)
