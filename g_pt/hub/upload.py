"""Uploading the folder of a model, with a card and a report."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

from g_pt.files.atomic import read_json, write_json
from g_pt.hub.download import (
    CARD_BESIDE,
    CARD_FILE,
    INDEX_FILE,
    REPORT_FILE,
    WRITE_SECONDS,
    download_snapshot,
    hub_errors,
)

SIGNATURE = b"\n<!-- g-pt %s -->\n"


def upload_model(
    folder: Path,
    repo_id: str,
    card: str,
    *,
    report: dict[str, Any] | None = None,
    private: bool | None = None,
    replace_card: bool = False,
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
        replace_card: replace a card that somebody else has written or changed; by itself ours is written beside it.
        revision: branch to commit to.
        token: of the account; the one of `hf auth login` where not given.
        endpoint: another Hub.

    Raises:
        OSError: the Hub refused it or is out of reach.

    Warns:
        UserWarning: the repository keeps a card that is not ours.
    """
    from huggingface_hub import HfApi

    if report is not None:
        write_json(folder / REPORT_FILE, report)
    forget_paths(folder)
    api = HfApi(endpoint=endpoint, token=token, library_name="g-pt")
    with hub_errors(repo_id, revision=revision, seconds=WRITE_SECONDS):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        place = {"revision": revision, "token": token, "endpoint": endpoint}
        old = download_snapshot(repo_id, [CARD_FILE], **place) / CARD_FILE
        name = CARD_FILE if replace_card or not old.exists() or is_signed(old.read_bytes()) else CARD_BESIDE
        if name == CARD_BESIDE:
            warnings.warn(
                f"the card of {repo_id} was written or changed by somebody: it stays, and ours is {CARD_BESIDE} beside "
                "it; gpt-push --replace-card replaces it",
                stacklevel=3,
            )
        (folder / name).write_bytes(signed(card))
        message = "Upload ParameterUpdatePipeline"
        api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message)
    return f"{api.endpoint}/{repo_id}"


def signed(card: str) -> bytes:
    """A card with the checksum of its text, which tells later whether somebody has changed it."""
    text = card.encode()
    return text + SIGNATURE % hashlib.sha256(text).hexdigest().encode()


def is_signed(card: bytes) -> bool:
    """Whether a card is as it was written by `signed`; line ends aside."""
    text = card.replace(b"\r\n", b"\n")
    return signed(text[: -len(SIGNATURE % bytes(64))].decode(errors="replace")) == text


def forget_paths(folder: Path) -> None:
    """Remove from the configurations the folder on this machine that diffusers remembers."""
    for path in (folder / INDEX_FILE, *folder.glob("*/*config.json")):
        entries = read_json(path)
        if entries.pop("_name_or_path", None) is not None:
            write_json(path, entries)
