"""Configurations of a model's parts from anywhere: what they may say, and whether the weights say the same.

The headers of the weights are compared with what a configuration would build before anything is built, so that a small
file cannot ask for more memory or time than its weights are worth.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated, Any, Literal

import torch
from torch import nn

from g_pt.files.schema import Between, Count, brief, one_line, read_value
from g_pt.files.tensor import TensorEntry
from g_pt.networks.metrics import Metric
from g_pt.networks.parameters import TENSORS
from g_pt.permutations.plans import edge_kind

MAX_TIMESTEPS = 100_000
MAX_TENSORS = 10_000  # of one network
MAX_PIECES = 20_000  # that permutable axes cut them into
MAX_LISTED = 1000  # in a setting of a scheduler
PLAIN = r"[A-Za-z_][A-Za-z0-9_+. -]{0,99}"  # words that diffusers' settings consist of

Width = Annotated[int, Between(1, 1_000_000)]
Depth = Annotated[int, Between(1, 10_000)]
Dropout = Annotated[float, Between(0, 1)]
Timesteps = Annotated[int, Between(1, MAX_TIMESTEPS)]
Sizes = Annotated[tuple[Count, ...], Between(1, 1_000_000)]
Block = tuple[Annotated[str, Between(0, 1000)] | None, Count, Count]
Axes = Annotated[list[Annotated[str, Between(0, 1000)] | list[Block] | None], Between(0, 64)]
Beta = Annotated[float, Between(1e-12, 0.999)]

# what the constructors take
ENTRIES: dict[str, dict[str, Any]] = {
    "ParameterTransformer": {
        "layout": TENSORS,
        "permutations": dict[str, Axes],
        "metric": Metric,
        **dict.fromkeys(("width", "num_heads", "num_frequencies", "edge_width"), Width),
        "num_layers": Depth,
        "mlp_ratio": Annotated[float, Between(1e-6, 1e6)],
        "max_metric_frequency": Annotated[float, Between(1e-6, 1e9)],
        "num_train_timesteps": Timesteps,
        "tokenization": Literal["units", "slices", "chunks", "kinds"],
        "kinds": Annotated[dict[Annotated[str, Between(1, 1000)], Count], Between(0, MAX_TENSORS)] | None,
        "chunk_size": Count,
        "prediction_type": Literal["sample", "v_prediction", "flow_prediction"],
    },
    "ReferenceTransformer": {
        "layout": TENSORS,
        "metric": Metric,
        **dict.fromkeys(("input_sizes", "output_sizes"), Sizes),
        **dict.fromkeys(("width", "num_heads", "num_frequencies"), Width),
        **dict.fromkeys(("num_layers", "encoder_depth", "decoder_depth"), Depth),
        "max_frequency_log2": Annotated[float, Between(-60, 60)],
        "absolute_metrics": bool,
        "prediction_type": Literal["sample", "epsilon"],
        **dict.fromkeys(("attention_dropout", "residual_dropout", "embedding_dropout"), Dropout),
        "num_train_timesteps": Timesteps,
    },
    "ParameterNormalizer": {"num_params": Count, "scale_law": bool},
}
# of diffusers' schedulers; their other settings are checked to be plain
SCHEDULER_ENTRIES: dict[str, Any] = {
    "num_train_timesteps": Timesteps,
    **dict.fromkeys(("beta_start", "beta_end"), Beta),
    "beta_schedule": Literal["linear", "scaled_linear", "squaredcos_cap_v2"],
    "trained_betas": Annotated[tuple[Beta, ...], Between(1, MAX_TIMESTEPS)] | None,
    "timestep_spacing": Literal["linspace", "leading", "trailing"],
    **dict.fromkeys(("thresholding", "clip_sample", "rescale_betas_zero_snr"), bool),
    "dynamic_thresholding_ratio": Annotated[float, Between(0, 1)],
    "sample_max_value": Annotated[float, Between(1e-6, 1e6)],
    "clip_sample_range": Annotated[float, Between(1e-6, 1e6)],
    "solver_order": Annotated[int, Between(1, 3)],
    "shift": Annotated[float, Between(1e-3, 1e3)],
}


def read_entries(name: str, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Arguments of a part's class, those that are not given included.

    Raises:
        ValueError: one is missing, unknown, or of another type or range.
    """
    types = ENTRIES[name]
    own = {key: value for key, value in config.items() if not key.startswith("_")}  # diffusers' own begin so
    for key in own:
        if key not in types:
            raise ValueError(f"{where} has an unknown entry {brief(key)}; its entries are {sorted(types)}")
        read_value(types[key], own[key], f"{where}: {key}")
    arguments = inspect.signature(class_named(name).__init__).bind_partial(None, **own)
    arguments.apply_defaults()
    for key in types:
        if key not in arguments.arguments:
            raise ValueError(f"{where} has no entry {key!r}")
    return {key: arguments.arguments[key] for key in types}


def check_scheduler(config: Mapping[str, Any], where: str) -> None:
    """Refuse settings of a scheduler that none of ours has, and lists that are not as long as its timesteps.

    Raises:
        ValueError: one is of another type or range.
    """
    for key, value in config.items():
        if key.startswith("_"):
            continue
        if key in SCHEDULER_ENTRIES:
            read_value(SCHEDULER_ENTRIES[key], value, f"{where}: {one_line(key, 80)}")
        elif not is_plain(value):
            raise ValueError(f"{where} must give {brief(key)} as a word, a number, true or false, got {brief(value)}")
    betas, num = config.get("trained_betas"), config.get("num_train_timesteps")
    if betas is not None and len(betas) != num:
        raise ValueError(f"{where} must give trained_betas for each of {num} timesteps, got {len(betas)}")


def is_plain(value: Any) -> bool:
    """Whether a setting is a word, a number that is no quantity of anything large, true, false, null, or some."""
    if isinstance(value, list | tuple):
        return len(value) <= MAX_LISTED and all(
            not isinstance(entry, list | tuple) and is_plain(entry) for entry in value
        )
    if isinstance(value, str):
        return re.fullmatch(PLAIN, value) is not None
    if value is None or type(value) is bool:
        return True
    return type(value) in (int, float) and (abs(value) <= MAX_TIMESTEPS or abs(value) == math.inf)  # False for NaN


def class_named(name: str) -> type[nn.Module]:
    """One of our classes; they import this package's heavier parts."""
    from g_pt.model.normalization import ParameterNormalizer
    from g_pt.model.reference_transformer import ReferenceTransformer
    from g_pt.model.transformer import ParameterTransformer

    return {cls.__name__: cls for cls in (ParameterTransformer, ReferenceTransformer, ParameterNormalizer)}[name]


def check_against_weights(name: str, entries: dict[str, Any], weights: Mapping[str, TensorEntry], where: str) -> None:
    """Compare what a configuration would build with the header of the weights: names and shapes, no more and no fewer.

    Args:
        name: of the part's class.
        entries: of `read_entries`.
        weights: of the header.
        where: the configuration's file.

    Raises:
        ValueError: they differ; the message names the first entry or tensor that does.
    """
    counts = COUNTED.get(name, lambda entries: {})(entries)
    for what, (prefix, wanted) in counts.items():  # first: what would take long to build
        found = numbered(weights, prefix)
        if found != wanted:
            raise ValueError(f"{where} says {what} {wanted:,}, but the weights have {found:,}: damaged, or of others")
    try:
        with torch.device("meta"):  # shapes without memory
            module = class_named(name)(**entries)
    except (RuntimeError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise ValueError(f"{where} describes no {name}: {one_line(str(error), 200)}") from error
    wanted_shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    for key, shape in wanted_shapes.items():
        if key not in weights:
            raise ValueError(f"the weights lack tensor {key!r}, which {where} describes: damaged, or of another model")
        if weights[key].shape != shape:
            raise ValueError(
                f"tensor {key!r} must have shape {brief(shape)}, as {where} describes, got {brief(weights[key].shape)}"
                ": damaged, or of another model"
            )
    if extra := next((key for key in weights if key not in wanted_shapes), None):
        raise ValueError(f"the weights have a tensor {brief(extra)} that {where} does not describe: of another model")


def transformer_counts(entries: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """What of a `ParameterTransformer` there are many of: `{words: (prefix of the weights' names, number)}`."""
    tokens, edges = count_tokens(entries)
    return {
        "num_layers": ("blocks.", entries["num_layers"]),
        "tokens of different kinds": ("tokens.encoders.", tokens),
        "edges of different kinds": ("tokens.edge_encoders.", edges),
    }


def reference_counts(entries: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """The same of a `ReferenceTransformer`."""
    return {
        "num_layers": ("blocks.", entries["num_layers"]),
        "matrices after the first of an encoder": ("encoder.rest.", entries["encoder_depth"] - 1),
        "matrices before the last of a decoder": ("decoder.rest.", entries["decoder_depth"] - 1),
    }


COUNTED = {"ParameterTransformer": transformer_counts, "ReferenceTransformer": reference_counts}


def numbered(weights: Mapping[str, TensorEntry], prefix: str) -> int:
    """How many numbers follow a prefix in the tensors' names."""
    rest = (name.removeprefix(prefix).partition(".")[0] for name in weights if name.startswith(prefix))
    return len({number for number in rest if number.isdecimal()})


def count_tokens(entries: dict[str, Any]) -> tuple[int, int]:
    """Kinds of tokens and of edges that `g_pt.permutations.units.token_index` would make, without making any.

    Raises:
        ValueError: more tensors or pieces than any network has.
    """
    layout, chunk_size = entries["layout"], entries["chunk_size"]
    if entries["tokenization"] == "kinds" and entries["kinds"]:
        num_edges = sum(edge_kind(kind) for kind in entries["kinds"])
        return len(entries["kinds"]) - num_edges, num_edges
    if len(layout) > MAX_TENSORS:
        raise ValueError(f"a model is of networks of at most {MAX_TENSORS:,} tensors, got {len(layout):,}")
    permutations = {} if entries["tokenization"] == "chunks" else entries["permutations"]
    groups: set[str] = set()
    pairs: set[frozenset[str]] = set()
    num_pieces = num_chunks = 0
    for name, shape in layout:
        axes = [blocks_of(axis, size) for axis, size in zip(permutations.get(name, ()), shape, strict=False)]
        axes += [[(None, size)] for size in shape[len(axes) :]]
        num_pieces += math.prod(map(len, axes))
        if num_pieces > MAX_PIECES:
            raise ValueError(f"permutations must cut the tensors into at most {MAX_PIECES:,} pieces, got more")
        for names, size in piece_groups(axes):
            groups.update(names)
            if not names:
                num_chunks += math.ceil(size / chunk_size)
            elif len(names) > 1 and entries["tokenization"] == "units":
                pairs.add(frozenset(names))
    return len(groups) + num_chunks, len(pairs)


def blocks_of(axis: Any, size: int) -> list[tuple[str | None, int]]:
    """Group and entries of each block of an axis."""
    return [(axis, size)] if not isinstance(axis, list) else [(group, units * inner) for group, units, inner in axis]


def piece_groups(axes: list[list[tuple[str | None, int]]]) -> Iterator[tuple[list[str], int]]:
    """Groups and entries of each piece that the blocks of a tensor's axes cut it into."""
    for blocks in product(*axes):
        yield [group for group, _ in blocks if group is not None], math.prod(size for _, size in blocks)
