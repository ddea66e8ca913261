"""Checkpoints of networks of many sizes: a folder with an ordinary dataset for each size, and a list of them.

    family.json         {"task": "digits[64-*-10]", "members": ["16", "24"]}: every size wanted
    16/, 24/ ...        the dataset of digits[64-16-10], of digits[64-24-10] ...

A shard holds vectors of one length, and everything that reads, checks, shares or imports a dataset knows one task and
one layout. So a size stays a dataset of its own: it can be used alone, added later, harvested elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.format import StoreError
from checkpoints_dataset.harvest import harvest_with_progress
from checkpoints_dataset.store import CheckpointStore, is_finished
from g_pt.files.atomic import read_json, write_json
from g_pt.files.schema import Between, brief, read_object
from g_pt.networks.training_facts import size_name
from g_pt.runtime.processes import Team
from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks import get_family
from g_pt.tasks.family import Hidden, parse_hidden

FAMILY_FILE = "family.json"
SIZES_STREAM = 7  # of the seed, from which sizes are drawn


@dataclass(frozen=True)
class FamilyListing:
    """What `family.json` holds: the family's name, and the folders of its members, widths joined by hyphens."""

    task: Annotated[str, Between(1, 200)]
    members: Annotated[tuple[Annotated[str, Between(1, 1000)], ...], Between(1, 10_000)]

    def __post_init__(self) -> None:
        if wrong := next((name for name in self.members if not re.fullmatch(r"\d+(-\d+)*", name)), None):
            raise ValueError(f"members must be widths joined by hyphens, got {brief(wrong)}")

    @property
    def sizes(self) -> list[Hidden]:
        """Hidden widths of every member."""
        return [tuple(map(int, name.split("-"))) for name in self.members]


def wanted_sizes(config: HarvestConfig) -> list[Hidden]:
    """The sizes that a harvest of a family asks for.

    Raises:
        ValueError: there are none, or they are not of the family.
    """
    sizes = parse_hidden(config.hidden, keyed_generator(config.seed, SIZES_STREAM))
    if not sizes:
        raise ValueError(f"{config.task} are tasks of many sizes: give them, such as --hidden 8 16 32")
    family = get_family(config.task)
    for hidden in sizes:
        family.check(hidden)
    return sizes


def harvest_family(config: HarvestConfig, folder: Path, team: Team | None = None) -> dict[Hidden, CheckpointStore]:
    """Harvest `config.num_runs` runs of every size, one after the other; sizes that are there already are kept.

    Returns:
        The datasets, in the first process of a team; nothing in the others.

    Raises:
        StoreError: the folder holds another family, or other files.
        ValueError: see `wanted_sizes` and `g_pt.tasks.get_family`.
    """
    family, sizes, team = get_family(config.task), wanted_sizes(config), team or Team()
    path, known = folder / FAMILY_FILE, []
    if path.exists():
        known = read_listing(folder, config.task).sizes
    elif folder.is_dir() and any(folder.iterdir()):
        raise StoreError(f"{folder} holds other files than the datasets of a family; name another folder")
    if team.is_first:
        folder.mkdir(parents=True, exist_ok=True)
        members = [size_name(hidden) for hidden in dict.fromkeys([*known, *sizes])]
        write_json(path, {"task": family.name, "members": members})
    stores = {}
    for hidden in sizes:
        own = replace(config, task=family.member_name(hidden), hidden=())
        store = harvest_with_progress(own, member_folder(folder, hidden), team)
        if store is not None:
            stores[hidden] = store
    return stores


def read_listing(folder: Path, task: str) -> FamilyListing:
    """The list of a family's datasets.

    Raises:
        StoreError: there is none, it is damaged, or of another family.
    """
    path = folder / FAMILY_FILE
    if not path.is_file():
        raise StoreError(f"{path} is missing: {folder} holds no datasets of a family; gpt-harvest --task {task!r}")
    try:
        listing = read_object(FamilyListing, read_json(path), str(path))
    except ValueError as error:
        raise StoreError(str(error)) from error
    if listing.task != task:
        raise StoreError(f"{folder} holds networks of {brief(listing.task)}, wanted are those of {task}")
    return listing


def member_folder(folder: Path, hidden: Hidden) -> Path:
    """Where the dataset of a size is: widths joined by hyphens."""
    return folder / size_name(hidden)


def is_family_finished(folder: Path, config: HarvestConfig) -> bool:
    """Whether the datasets of all sizes listed, and of all asked for, are there."""
    if not (folder / FAMILY_FILE).is_file():
        return False
    sizes = {*read_listing(folder, config.task).sizes, *(wanted_sizes(config) if config.hidden else ())}
    return all(is_finished(member_folder(folder, hidden)) for hidden in sizes)


def open_family(folder: Path, task: str) -> dict[Hidden, CheckpointStore]:
    """The datasets of a family by size.

    Raises:
        StoreError: one is missing or unfinished, or of another task than its folder says.
    """
    family, stores = get_family(task), {}
    for hidden in read_listing(folder, task).sizes:
        stores[hidden] = CheckpointStore(member_folder(folder, hidden))
        stores[hidden].check_task(family.member(hidden))
    return stores
