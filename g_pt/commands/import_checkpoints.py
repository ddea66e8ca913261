"""gpt-import: checkpoints of your own; models and data sets of the reference G.pt (wpeebles/G.pt), to here and back.

Examples:
    gpt-import folder mine --csv mine/metrics.csv --task my_task.py:MyTask --out runs/mine/checkpoints
    gpt-import recorded runs/mine/checkpoints
    gpt-import reference mnist_loss.pt --config mnist_loss.yaml --out runs/mnist_loss
    gpt-import lmdb checkpoint_datasets/mnist --out runs/mnist/checkpoints
    gpt-import export-reference runs/mnist_loss --out mnist_loss.pt
    gpt-import export-lmdb runs/digits/checkpoints --out checkpoint_datasets/digits

Conversions that were interrupted continue when the same command is given again. What they read is never changed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from g_pt.command_line.output import json_line
from g_pt.command_line.parsing import parse_subcommand
from g_pt.command_line.terminal import exit_on_error, show_warnings
from g_pt.commands.import_own import Folder, Recorded, finish_recorded, import_own_folder

if TYPE_CHECKING:
    from g_pt.reference.settings import ReferenceSettings


@dataclass(frozen=True)
class Reference:
    """Turn a training checkpoint of the reference into a model folder for gpt-sample and gpt-evaluate."""

    checkpoint: tyro.conf.Positional[Path]
    """A .pt file with G or G_ema; read without running code."""
    out: Path
    """Folder of the model; must not exist, or be empty."""
    config: Path | None = None
    """YAML (or JSON) that the model was trained with: says heads, metric, normalisation."""
    weights: Literal["ema", "raw"] | None = None
    """Averaged weights (the reference samples with them) or those as trained; ema where there are any."""
    task: str | None = None
    """Task of the networks, where they are not the reference's: a name, or path/to/file.py:Class."""
    metric: Literal["loss", "error", "return"] | None = None
    """That the model is prompted by, where the configuration does not say it."""
    num_heads: int | None = None
    """Attention heads, where there is no configuration: the weights do not say them."""
    coefficient: float | None = None
    """Normalised parameters are raw ones times it (openai_coeff), where the configuration does not say it."""
    store: Path | None = None
    """Converted data set of the model: ranges of prompts are taken from it, not from the paper's figures."""
    num_inference_steps: int = 50
    """Default sampling steps of the model; the reference always takes 1,000."""
    json: bool = False
    """Print one JSON object on standard output instead of lines for people."""


@dataclass(frozen=True)
class Lmdb:
    """Convert a folder of LMDB runs, fused or not, into a checkpoint dataset."""

    folder: tyro.conf.Positional[Path]
    """With one folder per run, or per several runs."""
    out: Path
    """Folder of the dataset."""
    task: str | None = None
    """Task of the networks, where they are not the reference's: a name, or path/to/file.py:Class."""
    num_test_runs: int | None = None
    """The last runs are the test split; the reference's own number where not given."""
    num_validation_runs: int = 0
    """Runs before them for validation; the reference has none, training here wants some."""
    max_abs_param: float = 10.0
    """Runs with a larger parameter are left out."""
    shard_megabytes: int = 64
    """Parameters in a shard; the conversion takes about three times as much memory."""
    steps_per_epoch: int | None = None
    """Of a run, to count steps over epochs; the reference's own number where not given."""
    json: bool = False
    """Print one JSON object on standard output instead of lines for people."""


@dataclass(frozen=True)
class ExportReference:
    """Write a chunk-token model as a checkpoint of the reference, with its YAML beside it."""

    model: tyro.conf.Positional[str]
    """Folder or Hub repository of the model."""
    out: Path
    """A .pt file."""
    json: bool = False
    """Print one JSON object on standard output instead of lines for people."""


@dataclass(frozen=True)
class ExportLmdb:
    """Write a checkpoint dataset as LMDB runs of the reference."""

    store: tyro.conf.Positional[Path]
    """Folder of the dataset."""
    out: Path
    """Folder of the runs' folders."""
    json: bool = False
    """Print one JSON object on standard output instead of lines for people."""


Command = (
    Annotated[Folder, tyro.conf.subcommand("folder")]
    | Annotated[Recorded, tyro.conf.subcommand("recorded")]
    | Annotated[Reference, tyro.conf.subcommand("reference")]
    | Annotated[Lmdb, tyro.conf.subcommand("lmdb")]
    | Annotated[ExportReference, tyro.conf.subcommand("export-reference")]
    | Annotated[ExportLmdb, tyro.conf.subcommand("export-lmdb")]
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command."""
    with exit_on_error("gpt-import"):
        parsed = parse_command(arguments)
        show_warnings("gpt-import")
        with redirect_stdout(sys.stderr if parsed.json else sys.stdout):
            result = RUN[type(parsed)](parsed)
        if parsed.json:
            print(json_line(result))


def parse_command(arguments: list[str] | None) -> Any:
    """The subcommand's arguments; `reference` has a --config of its own, which is the model's."""
    return parse_subcommand(Command, CONFIGURABLE, arguments, prog="gpt-import", description=__doc__)


def check_free(out: Path) -> None:
    """Refuse a folder that holds anything."""
    if not out.is_dir() or any(out.iterdir()):
        raise ValueError(f"{out} exists and is not an empty folder; name another one with --out")


def import_reference(arguments: Reference) -> dict[str, Any]:
    """Read, build, write, and say what was assumed."""
    from g_pt.command_line.terminal import hide_bars_in_pipes
    from g_pt.files.atomic import atomic_folder
    from g_pt.model.model_folders import checked_index
    from g_pt.reference.checkpoints import import_model
    from g_pt.reference.settings import ReferenceSettings, read_settings

    if arguments.out.exists():
        check_free(arguments.out)
    if arguments.num_inference_steps < 1:
        raise ValueError(f"--num-inference-steps must be at least 1, got {arguments.num_inference_steps}")
    hide_bars_in_pipes()
    settings: ReferenceSettings = ReferenceSettings(
        num_heads=arguments.num_heads, metric=arguments.metric, coefficient=arguments.coefficient
    )
    if arguments.config is not None:
        settings = settings.over(read_settings(arguments.config))
    imported = import_model(
        arguments.checkpoint,
        settings,
        weights=arguments.weights,
        task=arguments.task,
        num_inference_steps=arguments.num_inference_steps,
        where=str(arguments.config or "the command line"),
    )
    pipeline = imported.pipeline
    if arguments.store is not None:
        from checkpoints_dataset.facts import stored_facts
        from checkpoints_dataset.store import CheckpointStore

        facts = stored_facts(CheckpointStore(arguments.store), pipeline.metric)
        pipeline.register_to_config(training=facts.to_json())
    with atomic_folder(arguments.out, check_free) as unfinished:
        pipeline.save_pretrained(unfinished)
        checked_index(unfinished)  # what could not be loaded is not written
    for note in imported.notes:
        print(f"gpt-import: note: {note}", file=sys.stderr)
    config = pipeline.transformer.config
    print(
        f"{arguments.out}: {imported.weights} weights, {config.num_layers} layers of width {config.width}, "
        f"{len(config.input_sizes)} tokens, task {pipeline.config.task}, prompted by {pipeline.metric.name}"
    )
    return {
        "folder": str(arguments.out),
        "weights": imported.weights,
        "task": pipeline.config.task,
        "metric": pipeline.metric.name,
        "notes": list(imported.notes),
    }


def import_lmdb_runs(arguments: Lmdb) -> dict[str, Any]:
    """Convert with a progress bar, and say what was left out."""
    from tqdm import tqdm

    from checkpoints_dataset.lmdb.reading import ImportOptions, import_runs
    from checkpoints_dataset.lmdb.runs import LmdbRuns
    from g_pt.tasks import get_task

    options = ImportOptions(
        num_test_runs=arguments.num_test_runs,
        num_validation_runs=arguments.num_validation_runs,
        max_abs_param=arguments.max_abs_param,
        shard_bytes=arguments.shard_megabytes << 20,
        steps_per_epoch=arguments.steps_per_epoch,
    )
    task = None if arguments.task is None else get_task(arguments.task)
    total = len(LmdbRuns(arguments.folder).names)
    with tqdm(total=total, desc="converting", unit="run", disable=None) as bar:
        store = import_runs(arguments.folder, arguments.out, options, task=task, progress=bar.update)
    print(f"{arguments.out}: {len(store)} checkpoints of {len(store.runs)} runs, {len(store.left_out)} runs left out")
    kinds = Counter(kind_without_numbers(reason) for reason in store.left_out.values())
    for kind, count in kinds.most_common():
        print(f"  left out: {count} with {kind}", file=sys.stderr)
    for reason in list(store.left_out.values())[:5]:
        print(f"  {reason}", file=sys.stderr)
    if not store.runs:
        raise ValueError(f"all {len(store.left_out)} runs were left out, see above")
    return {
        "folder": str(arguments.out),
        "task": store.header.task,
        "checkpoints": len(store),
        "runs": len(store.runs),
        "left_out": {str(run): reason for run, reason in store.left_out.items()},
    }


def kind_without_numbers(reason: str) -> str:
    """Reduce a reason to its kind: without the run and its numbers."""
    words = {
        "no DONE.txt": "no DONE.txt",
        "no runs.json": "no runs.json",
        "no data.mdb": "no data.mdb",
        "truncated": "a truncated data.mdb",
        "is damaged": "a damaged data.mdb",
        "does not have it": "a missing checkpoint",
        "float32": "a vector of another length",
        "not finite": "parameters that are not finite",
        "largest parameter": "too large a parameter",
        "lack the metrics": "missing metrics",
    }
    return next((kind for word, kind in words.items() if word in reason), "a damaged runs.json")


def export_reference(arguments: ExportReference) -> dict[str, Any]:
    """Load, write, say where."""
    from g_pt.command_line.terminal import hide_bars_in_pipes
    from g_pt.model.pipeline import ParameterUpdatePipeline
    from g_pt.reference.export import export_model

    hide_bars_in_pipes()
    config = export_model(ParameterUpdatePipeline.from_pretrained(arguments.model), arguments.out)
    print(f"written: {arguments.out}\nwritten: {config}")
    return {"files": [str(arguments.out), str(config)]}


def export_lmdb_runs(arguments: ExportLmdb) -> dict[str, Any]:
    """Export with a progress bar."""
    from tqdm import tqdm

    from checkpoints_dataset.lmdb.writing import export_runs
    from checkpoints_dataset.store import CheckpointStore

    store = CheckpointStore(arguments.store)
    with tqdm(total=len(store.runs), desc="exporting", unit="run", disable=None) as bar:
        written = export_runs(store, arguments.out, progress=bar.update)
    print(f"{arguments.out}: {written} runs written, {len(store.runs) - written} were there")
    return {"folder": str(arguments.out), "written": written, "were_there": len(store.runs) - written}


CONFIGURABLE: dict[str, type] = {
    "folder": Folder,
    "recorded": Recorded,
    "lmdb": Lmdb,
    "export-reference": ExportReference,
    "export-lmdb": ExportLmdb,
}
RUN: dict[type, Callable[[Any], dict[str, Any]]] = {
    Folder: import_own_folder,
    Recorded: finish_recorded,
    Reference: import_reference,
    Lmdb: import_lmdb_runs,
    ExportReference: export_reference,
    ExportLmdb: export_lmdb_runs,
}

if __name__ == "__main__":
    main()
