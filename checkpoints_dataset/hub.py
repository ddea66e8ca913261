"""Checkpoint datasets on the Hugging Face Hub: one configuration for each network layout, with a card."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from checkpoints_dataset.config import dotted
from checkpoints_dataset.exchange import SPLITS, export_parquet, import_parquet
from checkpoints_dataset.format import HEADER_FILE, DatasetHeader, StoreError
from checkpoints_dataset.store import CheckpointStore
from g_pt.files.schema import brief, read_object
from g_pt.files.yaml_files import read_yaml_text
from g_pt.hub.download import CARD_BESIDE, WRITE_SECONDS, download_snapshot, hub_errors

TAGS = ["g-pt", "weight-space-learning", "neural-network-checkpoints"]
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
MAX_CARD_BYTES = 5_000_000
HEADING = "## Configuration "
SIZES = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")]


def push_dataset(
    store: CheckpointStore,
    repo_id: str,
    *,
    configuration: str | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
    card_beside: bool = False,
    progress: Callable[[int], object] = lambda shards: None,
) -> str:
    """Upload a dataset as one configuration of a repository; returns the repository's address.

    The repository is made where it does not exist; a configuration of the same name and layout is replaced, others and
    their parts of the card stay. One shard at a time is in memory; parquet files are written to the temporary folder.

    Args:
        store: the dataset.
        repo_id: "org/name".
        configuration: its name; the task's where not given.
        license: identifier for the card.
        private: of a new repository.
        token: of the account; the one of `hf auth login` where not given.
        endpoint: another Hub.
        card_beside: leave a card that cannot be read as it is, and write ours beside it, into `CARD_BESIDE`.
        progress: called with the number of shards written since the last call.

    Raises:
        StoreError: the configuration exists with another layout, or the repository's card cannot be read.
        OSError: the Hub refused it or is out of reach.
    """
    from huggingface_hub import HfApi

    name = checked_name(configuration or store.header.task)
    api = HfApi(endpoint=endpoint, token=token, library_name="g-pt")
    with hub_errors(repo_id):
        repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
    known = download_snapshot(
        repo_id, ["README.md", f"{name}/{HEADER_FILE}"], repo_type="dataset", token=token, endpoint=endpoint
    )
    if (known / name / HEADER_FILE).is_file():
        check_same_layout(DatasetHeader.read(known / name), store.header, repo_id, name)
    card_name = "README.md"
    try:
        old = read_card(known / card_name)
    except ValueError as error:
        if not card_beside:
            raise StoreError(
                f"the card of {repo_id} cannot be kept: {error}; mend it, or write one beside it: --card-beside"
            ) from error
        card_name, old = CARD_BESIDE, ({}, "")
    card = dataset_card(store, repo_id, name, old, license=license)
    with tempfile.TemporaryDirectory() as folder:
        export_parquet(store, Path(folder) / name, progress=progress)
        (Path(folder) / card_name).write_text(card, encoding="utf-8")
        with hub_errors(repo_id, seconds=WRITE_SECONDS):
            api.upload_folder(
                repo_id=repo_id,
                repo_type="dataset",
                folder_path=folder,
                delete_patterns=f"{name}/*",
                commit_message=f"Upload {name}",
            )
    return f"{api.endpoint}/datasets/{repo_id}"


def export_dataset(
    store: CheckpointStore,
    folder: Path,
    *,
    configuration: str | None = None,
    progress: Callable[[int], object] = lambda shards: None,
) -> None:
    """Write a dataset as parquet into an empty or new folder, with a card that names its configuration.

    `datasets.load_dataset(folder)` reads the folder, `import_parquet` makes the dataset of it again.

    Raises:
        ValueError: the configuration's name is none.
        StoreError: the folder is not empty.
    """
    name = checked_name(configuration or store.header.task)
    readme = dataset_card(store, str(folder), name, prefix="")
    export_parquet(store, folder, readme=readme, progress=progress)


def checked_name(name: str) -> str:
    """Refuse a name that no folder of a repository should have."""
    if not NAME.fullmatch(name):
        raise ValueError(f"a configuration must be named in letters, digits, '-', '_' and '.', got {brief(name)}")
    return name


def pull_dataset(
    repo_id: str,
    out: Path,
    *,
    configuration: str | None = None,
    progress: Callable[[int], object] = lambda shards: None,
    **hub_options: Any,
) -> CheckpointStore:
    """Download a configuration and turn it into a dataset, equal to the one that was uploaded.

    Args:
        repo_id: "org/name".
        out: folder of the dataset.
        configuration: its name; the only one where not given.
        progress: called with the number of shards read since the last call.
        hub_options: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, `endpoint`.

    Raises:
        StoreError: there is no such configuration, or several and none was named; or its files are damaged.
        OSError: the repository is missing, gated or out of reach.
    """
    hub_options["repo_type"] = "dataset"
    if configuration is None:
        found = download_snapshot(repo_id, [f"*/{HEADER_FILE}"], **hub_options)
        names = sorted(path.parent.name for path in found.glob(f"*/{HEADER_FILE}"))
        if len(names) != 1:
            raise StoreError(f"{repo_id} has the configurations {names}: name one" if names else none_in(repo_id))
        configuration = names[0]
    checked_name(configuration)
    patterns = [f"{configuration}/*.json", *(f"{configuration}/{split}/*.parquet" for split in SPLITS)]
    folder = download_snapshot(repo_id, patterns, **hub_options) / configuration
    if not (folder / HEADER_FILE).is_file():
        raise StoreError(f"{repo_id} has no configuration {configuration!r} with a {HEADER_FILE}")
    return import_parquet(folder, out, progress=progress)


def none_in(repo_id: str) -> str:
    """Describe a repository of something else."""
    return f"{repo_id} holds no checkpoint dataset: no folder of it has a {HEADER_FILE}"


def check_same_layout(found: DatasetHeader, wanted: DatasetHeader, repo_id: str, name: str) -> None:
    """Refuse to replace networks by others."""
    if found.layout != wanted.layout:
        raise StoreError(
            f"{repo_id} has a configuration {name!r} of other networks ({found.layout.describe()}); name another "
            "configuration"
        )


def dataset_card(
    store: CheckpointStore,
    repo_id: str,
    name: str,
    old: tuple[Mapping[str, Any], str] = ({}, ""),
    *,
    license: str | None = None,
    prefix: str | None = None,
) -> str:
    """The card with this configuration, of files in `prefix` or NAME/, added to what an older card says of others.

    The older card is its metadata and its text.
    """
    prefix = f"{name}/" if prefix is None else prefix
    header, body = dict(old[0]), old[1]
    configs = {entry["config_name"]: entry for entry in header.get("configs", [])}
    data_files = [{"split": split, "path": f"{prefix}{split}/*.parquet"} for split in SPLITS if store.runs_of(split)]
    configs[name] = {"config_name": name, "data_files": data_files}
    size = next((text for most, text in SIZES if len(store) < most), "n>10M")
    header |= {"tags": sorted({*header.get("tags", []), *TAGS}), "size_categories": [size]}
    header["configs"] = [configs[key] for key in sorted(configs)]
    if license is not None:
        header["license"] = license
    intro, *sections = re.split(rf"^(?={re.escape(HEADING)})", body, flags=re.MULTILINE)
    kept = {section.splitlines()[0].removeprefix(HEADING): section.strip() for section in sections}
    kept[name] = card_section(store, repo_id, name)
    intro = intro.strip() or introduction(repo_id)
    text = yaml.safe_dump(header, sort_keys=False)
    return f"---\n{text}---\n\n" + "\n\n".join([intro, *(kept[key] for key in sorted(kept))]) + "\n"


def read_card(path: Path) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card that people may have written; empty where there is none.

    Raises:
        ValueError: it is not UTF-8, its metadata are not YAML of plain values, or not those of a card.
    """
    if not path.exists():
        return {}, ""
    if (size := path.stat().st_size) > MAX_CARD_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than {MAX_CARD_BYTES:,}")
    try:
        card = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not text in UTF-8 ({error.reason} at byte {error.start})") from error
    match = re.match(r"---\r?\n(.*?)\n?---[ \t]*(?:\r?\n|$)(.*)", card, re.DOTALL)
    if match is None:
        return {}, card
    header = read_yaml_text(match[1], "its metadata") if match[1].strip() else {}
    read_object(CardData, header, "its metadata", ignore_unknown=True)
    return dict(header), match[2]


@dataclass(frozen=True)
class CardConfig:
    """A configuration in the metadata of a card."""

    config_name: str


@dataclass(frozen=True)
class CardData:
    """What is read of the metadata of a card, and written again."""

    tags: list[str] = field(default_factory=list)
    configs: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for entry in self.configs:
            read_object(CardConfig, entry, "configs", ignore_unknown=True)


def introduction(repo_id: str) -> str:
    """Write the part of the card that all configurations share."""
    return f"""# {repo_id}

Checkpoints of many small neural networks, saved while they were trained: each row is one checkpoint, `params` the
network's tensors in one vector of fixed length. Made with g-pt. Runs are never in two splits; metrics are those of the
task's validation split; `step` counts optimizer steps."""


def card_section(store: CheckpointStore, repo_id: str, name: str) -> str:
    """One configuration: what it holds, how the runs were made, how it is loaded."""
    header = store.header
    runs = ", ".join(f"{len(store.runs_of(split)):,} {split}" for split in SPLITS)
    source = "\n".join(f"- {key}: {value}" for key, value in dotted(header.source).items()) or "- not recorded"
    metrics = ", ".join(
        f"`{metric.name}`{metric.label.removeprefix(metric.name)}" for metric in header.metrics.values()
    )
    return f"""{HEADING}{name}

Task {header.task}: {len(store):,} checkpoints of {len(store.runs):,} runs ({runs}); {len(store.left_out):,} runs were
left out. Metrics: {metrics}. `params` has {header.layout.num_params} {header.dtype} values, in this order:
{header.layout.describe(None)}.

How the runs were made:

{source}

```python
from datasets import load_dataset
checkpoints = load_dataset("{repo_id}", "{name}", split="train", streaming=True)
params = next(iter(checkpoints))["params"]  # {header.layout.num_params} numbers
```

`gpt-dataset pull {repo_id} --configuration {name} --out runs/{name}/checkpoints` makes it a dataset to train from."""
