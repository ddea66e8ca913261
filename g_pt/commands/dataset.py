"""gpt-dataset: checkpoint datasets to and from the Hugging Face Hub, as parquet that everybody can read.

Examples:
    gpt-dataset push runs/digits/checkpoints my-name/checkpoints
    gpt-dataset pull my-name/checkpoints --configuration digits --out runs/digits/checkpoints
    gpt-dataset export runs/digits/checkpoints --out parquet/digits
    gpt-dataset import parquet/digits --out runs/digits/checkpoints

What comes back equals what went there, bit for bit. Log in with `hf auth login` before a push.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from g_pt.command_line.output import json_line
from g_pt.command_line.parsing import parse_subcommand
from g_pt.command_line.terminal import exit_on_error, show_warnings

if TYPE_CHECKING:
    from checkpoints_dataset.store import CheckpointStore


@dataclass(frozen=True)
class Push:
    """Upload a dataset as one configuration of a repository."""

    store: tyro.conf.Positional[Path]
    """Folder of the dataset."""
    repo: tyro.conf.Positional[str]
    """Repository on the Hub, org/name; made where it does not exist."""
    configuration: str | None = None
    """Name of these networks in the repository; the task's where not given."""
    license: str | None = None
    """Identifier of the licence, apache-2.0 say."""
    card_beside: bool = False
    """Where the repository's card cannot be read, leave it and write README.g-pt.md beside it."""
    private: bool = False
    """Make a new repository private."""
    json: bool = False
    """Print one JSON object on standard output instead of a line for people."""


@dataclass(frozen=True)
class Pull:
    """Download a configuration of a repository."""

    repo: tyro.conf.Positional[str]
    """Repository on the Hub, org/name."""
    out: Path
    """Folder of the dataset."""
    configuration: str | None = None
    """Which networks, where the repository has several."""
    revision: str | None = None
    """Branch, tag or commit."""
    json: bool = False
    """Print one JSON object on standard output instead of a line for people."""


@dataclass(frozen=True)
class Export:
    """Write a dataset as parquet into a folder, as a push would upload it."""

    store: tyro.conf.Positional[Path]
    """Folder of the dataset."""
    out: Path
    """Folder of the parquet files; must not exist, or be empty."""
    configuration: str | None = None
    """Name of these networks in the folder's card; the task's where not given."""
    json: bool = False
    """Print one JSON object on standard output instead of a line for people."""


@dataclass(frozen=True)
class Import:
    """Make a dataset of a folder of parquet files that export wrote."""

    folder: tyro.conf.Positional[Path]
    """Folder of the parquet files."""
    out: Path
    """Folder of the dataset."""
    json: bool = False
    """Print one JSON object on standard output instead of a line for people."""


Command = (
    Annotated[Push, tyro.conf.subcommand("push")]
    | Annotated[Pull, tyro.conf.subcommand("pull")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Import, tyro.conf.subcommand("import")]
)


CONFIGURABLE: dict[str, type] = {"push": Push, "pull": Pull, "export": Export, "import": Import}


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command."""
    with exit_on_error("gpt-dataset"):
        parsed = parse_command(arguments)
        show_warnings("gpt-dataset")
        with redirect_stdout(sys.stderr if parsed.json else sys.stdout):
            result = run(parsed)
        if parsed.json:
            print(json_line(result))


def parse_command(arguments: list[str] | None) -> Any:
    """The subcommand's arguments."""
    return parse_subcommand(Command, CONFIGURABLE, arguments, prog="gpt-dataset", description=__doc__)


def run(arguments: Push | Pull | Export | Import) -> dict[str, Any]:
    """Do what was asked for, with a bar over the shards; returns what `--json` prints."""
    from tqdm import tqdm

    from checkpoints_dataset.exchange import import_parquet
    from checkpoints_dataset.hub import export_dataset, pull_dataset, push_dataset
    from checkpoints_dataset.store import CheckpointStore

    if isinstance(arguments, Push | Pull) and arguments.repo.count("/") != 1:
        raise ValueError(f"the repository must be named org/name, got {arguments.repo!r}")
    with tqdm(desc="shards", unit="shard", disable=None) as bar:
        if isinstance(arguments, Push):
            address = push_dataset(
                CheckpointStore(arguments.store),
                arguments.repo,
                configuration=arguments.configuration,
                license=arguments.license,
                private=arguments.private or None,
                card_beside=arguments.card_beside,
                progress=bar.update,
            )
            print(f"uploaded: {address}")
            return {"repo": arguments.repo, "address": str(address)}
        if isinstance(arguments, Export):
            options = {"configuration": arguments.configuration}
            export_dataset(CheckpointStore(arguments.store), arguments.out, progress=bar.update, **options)
            print(f"written: {arguments.out}")
            return {"folder": str(arguments.out)}
        if isinstance(arguments, Pull):
            options = {"configuration": arguments.configuration, "revision": arguments.revision}
            store = pull_dataset(arguments.repo, arguments.out, progress=bar.update, **options)
        else:
            store = import_parquet(arguments.folder, arguments.out, progress=bar.update)
    return report(arguments.out, store)


def report(out: Path, store: CheckpointStore) -> dict[str, Any]:
    """Describe the result."""
    print(f"{out}: {len(store)} checkpoints of {len(store.runs)} runs, {len(store.left_out)} runs left out")
    return {
        "folder": str(out),
        "task": store.header.task,
        "checkpoints": len(store),
        "runs": len(store.runs),
        "left_out": {str(run): reason for run, reason in store.left_out.items()},
    }


if __name__ == "__main__":
    main()
