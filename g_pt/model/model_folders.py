"""Model folders from anywhere: what can be checked is checked before anything is built or loaded.

A folder can name only classes of this package and the schedulers of `g_pt.model.schedulers`; sizes in its
configurations must fit the tensors that it really holds, so that it cannot ask for more memory than it has bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers.utils import logging
from torch import nn

from g_pt.files.atomic import read_json, write_json
from g_pt.files.tensor import TensorEntry, read_tensor_entries
from g_pt.hub.download import INDEX_FILE
from g_pt.model.schedulers import FLOW_SCHEDULERS, SCHEDULERS
from g_pt.networks.training_facts import TrainingFacts

PIPELINE_CLASS = "ParameterUpdatePipeline"
# class -> the module of it; nothing else of ours is ever looked up by name
CLASSES: dict[str, dict[str, str]] = {
    "transformer": {
        "ParameterTransformer": "g_pt.model.transformer",
        "ReferenceTransformer": "g_pt.model.reference_transformer",
    },
    "normalizer": {"ParameterNormalizer": "g_pt.model.normalization"},
    "scheduler": {
        **{cls: "diffusers" for cls, _ in (*SCHEDULERS.values(), *FLOW_SCHEDULERS.values())},
        "RespacedDDIMScheduler": "g_pt.model.reference_scheduler",
    },
}
# where models of earlier versions say that our classes are
EARLIER_MODULES = {
    "g_pt.transformer": "g_pt.model.transformer",
    "g_pt.normalization": "g_pt.model.normalization",
    "g_pt.reference.transformer": "g_pt.model.reference_transformer",
    "g_pt.reference.scheduler": "g_pt.model.reference_scheduler",
}
# saved models name a file of the folder instead, for diffusers without this package's class
SHIM = "g_pt_class"
MAX_TIMESTEPS = 100_000
CHOICES = {
    "tokenization": ("units", "slices", "chunks"),
    "prediction_type": ("sample", "v_prediction", "flow_prediction", "epsilon"),
}
WEIGHTS = re.compile(r"diffusion_pytorch_model[\w.-]*\.safetensors")


def checked_index(folder: Path) -> dict[str, Any]:
    """Check a folder; returns its model_index.json with the modules of this package.

    Raises:
        ValueError: something is missing, damaged or not of this package; one sentence names the file.
    """
    path = folder / INDEX_FILE
    index = json_object(path)
    name = index.get("_class_name")
    if name not in (PIPELINE_CLASS, [SHIM, PIPELINE_CLASS]):
        raise ValueError(f"{path} must be of a {PIPELINE_CLASS}, got {brief(name)}: a model of something else")
    for part, classes in CLASSES.items():
        index[part] = [checked_class(path, part, index.get(part), classes)[0], index[part][1]]
    others = [key for key, value in index.items() if key not in (*CLASSES, "_class_name") and isinstance(value, list)]
    if others:
        raise ValueError(f"{path} must name {list(CLASSES)} and no other parts, got {brief(others)}")
    index["_class_name"] = PIPELINE_CLASS
    check_settings(path, index)
    check_parts(folder, {part: index[part][1] for part in CLASSES})
    return index


def checked_class(path: Path, part: str, value: Any, classes: dict[str, str]) -> tuple[str, str]:
    """Module and name of a part's class, where it is one of ours."""
    if not (isinstance(value, list) and len(value) == 2 and isinstance(value[1], str) and value[1] in classes):
        raise ValueError(f"{path} names {brief(value)} as its {part}; that must be one of {', '.join(sorted(classes))}")
    module = classes[value[1]]
    if value[0] not in (module, SHIM) and EARLIER_MODULES.get(str(value[0])) != module:
        raise ValueError(f"{path} must take {value[1]} from {module}, got {brief(value[0])}")
    return module, value[1]


def write_shims(folder: Path) -> None:
    """Let `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` find the classes of a saved model.

    Diffusers imports a class that it does not know from a file of the folder. These files have one line, an import of
    this package, which must be installed; nothing here ever runs them.
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


def check_settings(path: Path, index: dict[str, Any]) -> None:
    """Refuse settings of wrong types, and ranges of prompts that are none."""
    if not isinstance(index.get("task"), str | None):
        raise ValueError(f"{path} must give task as a name, got {brief(index['task'])}")
    steps = index.get("num_inference_steps", 1)
    if not is_whole(steps, 1, MAX_TIMESTEPS):
        raise ValueError(f"{path} must give num_inference_steps as 1 to {MAX_TIMESTEPS}, got {brief(steps)}")
    TrainingFacts.from_json(index.get("training") or {}, f"{path}: training")


def check_parts(folder: Path, classes: dict[str, str]) -> None:
    """Compare the configurations of the three parts with their weights and with each other."""
    weights = {part: read_weights(folder / part) for part in ("transformer", "normalizer")}
    path = folder / "transformer" / "config.json"
    config = json_object(path)
    scheduler_path = folder / "scheduler" / "scheduler_config.json"
    scheduler = json_object(scheduler_path)
    for file, part in ((path, "transformer"), (scheduler_path, "scheduler")):
        name = (config if part == "transformer" else scheduler).get("_class_name", classes[part])
        if name != classes[part]:
            raise ValueError(f"{file} must be of a {classes[part]}, as {INDEX_FILE} says, got {brief(name)}")
    num_params = check_layout(path, config.get("layout"))
    found = {name: list(entry.shape) for name, entry in weights["normalizer"].items()}
    if found != {"mean": [num_params], "std": [num_params]}:
        raise ValueError(
            f"{folder / 'normalizer'} must hold mean and std of {num_params} parameters, as {path} says, got "
            f"{brief(found)}"
        )
    own = json_object(folder / "normalizer" / "config.json").get("num_params")
    if own != num_params:
        raise ValueError(
            f"{folder / 'normalizer'} must be of {num_params} parameters, as {path} says, got {brief(own)}"
        )
    check_sizes(path, config, weights["transformer"])
    steps = scheduler.get("num_train_timesteps")
    if not is_whole(steps, 1, MAX_TIMESTEPS) or steps != config.get("num_train_timesteps"):
        raise ValueError(
            f"{scheduler_path} must have the model's num_train_timesteps, "
            f"{brief(config.get('num_train_timesteps'))} and at most {MAX_TIMESTEPS}, got {brief(steps)}"
        )
    wanted = config.get("prediction_type", "sample")
    if scheduler.get("prediction_type", wanted) != wanted:
        raise ValueError(
            f"{scheduler_path} must have the model's prediction_type {brief(wanted)}, got "
            f"{brief(scheduler['prediction_type'])}"
        )
    for name in ("beta_start", "beta_end"):
        if name in scheduler and not (is_number(scheduler[name]) and 0 < scheduler[name] < 1):
            raise ValueError(f"{scheduler_path} must give {name} between 0 and 1, got {brief(scheduler[name])}")


def check_weights(transformer: nn.Module, normalizer: nn.Module) -> None:
    """Refuse loaded parts without values, which diffusers only warns of, and values that are not finite."""
    for part, module in (("transformer", transformer), ("normalizer", normalizer)):
        tensors = module.state_dict()
        missing = [name for name, tensor in tensors.items() if tensor.is_meta]
        if missing:
            raise ValueError(f"{part} lacks tensors {missing[:3]}: the weights are damaged or of another model")
        broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        if broken:
            raise ValueError(f"{part} has values that are not finite in {broken[:3]}")
    if not (normalizer.state_dict()["std"] > 0).all():
        raise ValueError("normalizer must have positive standard deviations")


def read_weights(folder: Path) -> dict[str, TensorEntry]:
    """Tensors in a part's safetensors files; nothing else is read, whatever else is there."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing: the model is incomplete")
    files = sorted(file for file in folder.glob("*.safetensors") if WEIGHTS.fullmatch(file.name))
    if not files:
        raise ValueError(f"{folder} has no diffusion_pytorch_model.safetensors; weights in other formats are not read")
    for listing in folder.glob("*.safetensors.index.json"):
        parts = json_object(listing).get("weight_map")
        if not isinstance(parts, dict) or not {str(p) for p in parts.values()} <= {file.name for file in files}:
            raise ValueError(f"{listing} must list files of its own folder, got {brief(parts)}")
    entries: dict[str, TensorEntry] = {}
    for file in files:
        entries |= read_tensor_entries(file)
    return entries


def check_layout(path: Path, layout: Any) -> int:
    """Number of parameters of `[[name, [size, ...]], ...]`."""
    try:
        shapes = [(name, shape) for name, shape in layout]
    except (TypeError, ValueError):
        shapes = []
    if not shapes or not all(
        isinstance(name, str) and isinstance(shape, list) and all(is_whole(s, 1, 2**40) for s in shape)
        for name, shape in shapes
    ):
        raise ValueError(f"{path} must give layout as [[name, [size, ...]], ...], got {brief(layout)}")
    return sum(math.prod(shape) for _, shape in shapes)


def check_sizes(path: Path, config: dict[str, Any], weights: dict[str, TensorEntry]) -> None:
    """No size in the configuration may exceed what the weights can have, and no choice may be unknown."""
    for name, choices in CHOICES.items():
        if config.get(name, choices[0]) not in choices:
            raise ValueError(f"{path} must give {name} as one of {list(choices)}, got {brief(config[name])}")
    most = sum(math.prod(entry.shape) for entry in weights.values())
    for name in ("width", "num_layers", "num_heads", "num_frequencies", "edge_width", "encoder_depth", "decoder_depth"):
        if name in config and not is_whole(config[name], 1, most):
            raise ValueError(
                f"{path} must give {name} as 1 to {most}, which its weights have, got {brief(config[name])}"
            )
    if "width" in config and [config["width"]] not in [list(entry.shape) for entry in weights.values()]:
        raise ValueError(f"{path} says width {config['width']}, but no tensor of the weights has it: damaged")
    ratio = config.get("mlp_ratio", 4.0)
    if not (is_number(ratio) and 0 < ratio * config.get("width", 1) <= most):
        raise ValueError(f"{path} must give mlp_ratio as a positive number that its weights have, got {brief(ratio)}")


def json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: the model is incomplete")
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {brief(content)}")
    return content


def is_whole(value: Any, low: int, high: int) -> bool:
    """Whether a value from JSON is a whole number of a range."""
    return type(value) is int and low <= value <= high


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number."""
    return type(value) in (int, float) and abs(value) < 1e30


def brief(value: Any) -> str:
    """A value for an error message: one line, not all of it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextmanager
def no_loading_bar() -> Iterator[None]:
    """Keep diffusers' bar over three small files off the screen; it is on again afterwards, if it was on."""
    was_on = logging._tqdm_active  # there is no public way to ask
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()
