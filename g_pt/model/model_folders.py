"""Model folders from anywhere: what can be checked is checked before anything is built or loaded.

A folder can name only classes of this package and the schedulers of `g_pt.model.schedulers`; sizes in its
configurations must fit the tensors that it really holds, so that it cannot ask for more memory than it has bytes.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any

from diffusers.utils import logging
from torch import nn

from g_pt.files.atomic import read_json, read_json_object, write_json
from g_pt.files.schema import Between, OneLine, brief, read_value
from g_pt.files.tensor import TensorEntry, read_tensor_entries
from g_pt.hub.download import INDEX_FILE
from g_pt.model.model_configs import Timesteps, check_against_weights, check_scheduler, read_entries
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
MAX_JSON_BYTES = 10_000_000  # of any JSON in a folder; that of the largest networks has a hundredth of it
MAX_STD = 1e9  # of parameters, and its inverse: what float32 still multiplies without loss
Name = Annotated[str, Between(1, 200), OneLine()]
_hidden = False  # the bar was on and is off now
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
    read_value(Name | None, index.get("task"), f"{path}: task")
    read_value(Timesteps, index.get("num_inference_steps", 1), f"{path}: num_inference_steps")
    TrainingFacts.from_json(index.get("training") or {}, f"{path}: training")


def check_parts(folder: Path, classes: dict[str, str]) -> None:
    """Compare the configurations of the three parts with their weights and with each other."""
    files = {
        part: folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json") for part in classes
    }
    configs = {part: json_object(path) for part, path in files.items()}
    for part, path in files.items():
        name = configs[part].get("_class_name", classes[part])
        if name != classes[part]:
            raise ValueError(f"{path} must be of a {classes[part]}, as {INDEX_FILE} says, got {brief(name)}")
    path, scheduler_path = files["transformer"], files["scheduler"]
    entries = read_entries(classes["transformer"], configs["transformer"], str(path))
    normalizer = read_entries(classes["normalizer"], configs["normalizer"], str(files["normalizer"]))
    num_params = sum(math.prod(shape) for _, shape in entries["layout"])
    if normalizer["num_params"] != num_params:
        raise ValueError(
            f"{files['normalizer']} must be of {num_params} parameters, as {path} says, got {normalizer['num_params']}"
        )
    weights = {part: read_weights(folder / part) for part in ("transformer", "normalizer")}
    check_against_weights(classes["normalizer"], normalizer, weights["normalizer"], str(files["normalizer"]))
    check_against_weights(classes["transformer"], entries, weights["transformer"], str(path))
    check_scheduler(configs["scheduler"], str(scheduler_path))
    for name, wanted in (("num_train_timesteps", None), ("prediction_type", entries["prediction_type"])):
        found = configs["scheduler"].get(name, wanted)
        if found != entries[name]:
            raise ValueError(
                f"{scheduler_path} must have the model's {name}, {brief(entries[name])}, got {brief(found)}"
            )


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
    std, mean = normalizer.state_dict()["std"], normalizer.state_dict()["mean"]
    if not ((std >= 1 / MAX_STD) & (std <= MAX_STD) & (mean.abs() <= MAX_STD)).all():
        raise ValueError(
            f"normalizer must have positive standard deviations, {1 / MAX_STD:g} to {MAX_STD:g}, and means of at most "
            f"{MAX_STD:g}"
        )


def read_weights(folder: Path) -> dict[str, TensorEntry]:
    """Tensors in a part's safetensors files; nothing else is read, whatever else is there."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing: the model is incomplete")
    files = sorted(file for file in folder.glob("*.safetensors") if WEIGHTS.fullmatch(file.name))
    if not files:
        raise ValueError(f"{folder} has no diffusion_pytorch_model.safetensors; weights in other formats are not read")
    for listing in folder.glob("*.safetensors.index.json"):
        parts = json_object(listing).get("weight_map")
        if not isinstance(parts, dict) or not set(map(str, parts.values())) <= {file.name for file in files}:
            raise ValueError(f"{listing} must list files of its own folder, got {brief(parts)}")
    entries: dict[str, TensorEntry] = {}
    for file in files:
        found = read_tensor_entries(file)
        if twice := next((name for name in found if name in entries), None):
            raise ValueError(f"{file} has a tensor {brief(twice)} that another file of {folder} has too: damaged")
        entries |= found
    return entries


def json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model's folder."""
    if not path.exists():
        raise ValueError(f"{path} is missing: the model is incomplete")
    return read_json_object(path, max_bytes=MAX_JSON_BYTES)


def loading_bar(shown: bool) -> None:
    """Show or hide diffusers' bar over three small files; nothing happens where it was off before it was hidden."""
    global _hidden
    if shown and _hidden:
        logging.enable_progress_bar()
    _hidden = not shown and (_hidden or logging._tqdm_active)  # there is no public way to ask
    if not shown:
        logging.disable_progress_bar()
