"""From the name of a model to a local folder: bundled models, folders, and repositories on the Hugging Face Hub."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

INDEX_FILE, REPORT_FILE, CARD_FILE = "model_index.json", "report.json", "README.md"
CARD_BESIDE = "README.g-pt.md"  # ours, where the repository's card is somebody's
BUNDLED = Path(__file__).parent.parent / "bundled"
# that the Hub may take for an answer to a question, and to check what was uploaded
READ_SECONDS, WRITE_SECONDS = 15.0, 300.0
SLOWEST = 1000  # bytes per second of a connection beyond that time: a Hub may not drip for ever
# everything a pipeline needs, and nothing that could be executed
ALLOWED_FILES = [
    *(INDEX_FILE, REPORT_FILE, CARD_FILE, "*/config.json", "scheduler/scheduler_config.json"),
    *("*/*.safetensors", "*/*.safetensors.index.json"),
]


def bundled_models() -> list[str]:
    """Names of the models inside this package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{INDEX_FILE}"))


def resolve_model(name: Path | str, **hub_options: Any) -> Path:
    """Find the folder of a model, fetching it from the Hub where needed.

    Args:
        name: the name of a bundled model, a folder with model_index.json, or a Hub repository "org/name".
        hub_options: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, `endpoint`.

    Raises:
        OSError: there is no such model, or it cannot be fetched; the message says which and why.
    """
    if str(name) in bundled_models():  # first: a folder of that name here is meant by ./name
        return BUNDLED / str(name)
    folder = Path(name)
    if folder.is_dir():
        if not (folder / INDEX_FILE).exists():
            raise OSError(f"{folder} is a folder without model_index.json: not a saved ParameterUpdatePipeline")
        return folder
    if str(name).count("/") != 1 or str(name).startswith((".", "/")):
        raise OSError(
            f"there is no folder {name}; bundled models are {', '.join(bundled_models())}, and repositories of the Hub "
            "are called 'org/name'"
        )
    try:
        return download(str(name), **hub_options)
    except OSError as error:
        if str(error).startswith("there is no folder") or is_known_to_the_hub(error):
            raise
        raise OSError(f"there is no folder {name}; as a repository of the Hub: {error}") from error


def is_known_to_the_hub(error: OSError) -> bool:
    """Whether the Hub has answered that there is such a repository."""
    from huggingface_hub import errors

    return isinstance(error.__cause__, errors.GatedRepoError | errors.RevisionNotFoundError)


def download(repo_id: str, **hub_options: Any) -> Path:
    """Fetch a repository's JSON and safetensors files from the Hub; cached files are not fetched again."""
    folder = download_snapshot(repo_id, ALLOWED_FILES, **hub_options)
    if not (folder / INDEX_FILE).is_file():
        raise OSError(f"repository {repo_id} has no model_index.json: not a ParameterUpdatePipeline")
    return folder


def download_snapshot(repo_id: str, patterns: list[str], **hub_options: Any) -> Path:
    """Fetch the files of a repository that match, and no others; returns the folder in the cache.

    Raises:
        OSError: see `hub_errors`.
    """
    from huggingface_hub import snapshot_download

    options = {key: value for key, value in hub_options.items() if value is not None}
    with hub_errors(repo_id, revision=options.get("revision")):
        return Path(snapshot_download(repo_id, allow_patterns=patterns, **options))


@contextmanager
def answered_within(seconds: float) -> Iterator[None]:
    """Let no request of the Hub's client wait longer for an answer, or for more of one; by itself it waits for ever."""
    from huggingface_hub import get_session

    def trace(event: str, told: dict[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            told["return_value"].read = paced(told["return_value"].read, seconds)

    def limit(request: Any) -> None:
        limits = {name: value or seconds for name, value in request.extensions.get("timeout", {}).items()}
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), seconds) | limits
        request.extensions["trace"] = trace

    session = get_session()
    hooks = session.event_hooks
    session.event_hooks = {**hooks, "request": [*hooks["request"], limit]}
    try:
        yield
    finally:
        session.event_hooks = hooks


def paced(read: Callable[..., bytes], seconds: float) -> Callable[..., bytes]:
    """Reading of a connection that must not take longer in all than `seconds` and what `SLOWEST` allows."""
    taken = received = 0.0

    def read_in_time(*arguments: Any, **options: Any) -> bytes:
        nonlocal taken, received
        began = time.monotonic()
        data = read(*arguments, **options)
        taken, received = taken + time.monotonic() - began, received + len(data)
        if taken > seconds + received / SLOWEST:
            raise TimeoutError(f"only {received:.0f} bytes came in {taken:.0f} s")
        return data

    return read_in_time


@contextmanager
def hub_errors(repo_id: str, *, revision: str | None = None, seconds: float | None = None) -> Iterator[None]:
    """Turn what the Hub's client raises into one sentence that says which repository and why.

    Args:
        repo_id: "org/name".
        revision: that is asked for.
        seconds: that the Hub may take for an answer; READ_SECONDS where not given.

    Raises:
        OSError: the repository is missing, gated, private, only partly cached or out of reach.
    """
    from huggingface_hub import errors

    incomplete = getattr(errors, "IncompleteSnapshotError", ())  # newer clients only
    offline = os.environ.get("HF_HUB_OFFLINE", "0")
    seconds = seconds or READ_SECONDS
    try:
        with answered_within(seconds):
            yield
    except errors.HFValidationError as error:
        raise OSError(f"{repo_id!r} is neither an existing folder nor a valid Hub repository name") from error
    except errors.GatedRepoError as error:
        raise OSError(f"{repo_id} is gated: accept its terms on the Hub and run `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise OSError(
            f"there is no folder {repo_id} and no such repository on the Hub; if it is private, run `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise OSError(f"{repo_id} has no revision {revision!r}") from error
    except incomplete as error:
        raise OSError(
            f"{repo_id} is only partly cached and the Hub is out of reach (HF_HUB_OFFLINE={offline})"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise OSError(f"{repo_id} is not cached and the Hub is out of reach (HF_HUB_OFFLINE={offline})") from error
    except errors.OfflineModeIsEnabled as error:
        raise OSError(f"{repo_id} cannot be reached: HF_HUB_OFFLINE={offline}") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise OSError(f"the Hub refused {repo_id}: no permission ({status}); run `hf auth login`") from error
        raise OSError(f"the Hub refused {repo_id}: {brief(error)}") from error
    except Exception as error:  # of the HTTP library, whose name depends on the version of huggingface_hub
        why = f"it did not answer within {seconds:g} s" if "Timeout" in type(error).__name__ else brief(error)
        raise OSError(f"{repo_id} could not be reached on the Hub: {why}") from error


def brief(error: Exception) -> str:
    """The first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
