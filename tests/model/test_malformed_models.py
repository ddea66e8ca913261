"""Models that are damaged or hostile: one sentence, no code run, no absurd memory, no hang."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from malformed import TENSOR_FILES, Payload, edit, is_one_sentence, limited, set_tensor
from safetensors.torch import load_file, save_file

from g_pt.hub.download import resolve_model
from g_pt.model.pipeline import ParameterUpdatePipeline

REPO = "org/name"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def drop_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors["norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


def renamed(path: Path) -> None:
    """Weights in a pickle, and no others."""
    path.unlink()
    path.with_suffix(".bin").write_bytes(pickle.dumps(Payload()))


def index(**entries: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "model_index.json", lambda c: c.update(entries))


def source(value: Any) -> Callable[[Path], None]:
    return index(training={"dataset": {"source": value}})


def metric(**entries: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "transformer" / "config.json", lambda c: c["metric"].update(entries))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def linked(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def folder_of(path: Path) -> None:
    path.unlink()
    path.mkdir()


def normalizer_of(folder: Path, mean: float, std: float) -> None:
    tensors = {"mean": torch.full((1210,), mean), "std": torch.full((1210,), std)}
    save_file(tensors, folder / "normalizer/diffusion_pytorch_model.safetensors")


def resize(folder: Path, num_params: int) -> None:
    """Another number of parameters, in the normalizer alone."""
    tensors = {"mean": torch.zeros(num_params), "std": torch.ones(num_params)}
    save_file(tensors, folder / "normalizer/diffusion_pytorch_model.safetensors")
    edit(folder / "normalizer" / "config.json", lambda c: c.update(num_params=num_params))


def transformer(**entries: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "transformer" / "config.json", lambda c: c.update(entries))


def scheduler(**entries: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "scheduler" / "scheduler_config.json", lambda c: c.update(entries))


MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    **{f"weights: {name}": ((lambda f, d=d: d(f / WEIGHTS)), word) for name, (d, word) in TENSOR_FILES.items()},
    "weights NaN": (lambda f: set_tensor(f / WEIGHTS, float("nan")), "not finite"),
    "weights infinite": (lambda f: set_tensor(f / WEIGHTS, float("inf")), "not finite"),
    "a tensor missing": (lambda f: drop_tensor(f / WEIGHTS), "damaged"),
    "weights in a pickle only": (lambda f: renamed(f / WEIGHTS), "no diffusion_pytorch_model.safetensors"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "no diffusion_pytorch_model.safetensors"),
    "no transformer": (lambda f: (f / "transformer").rename(f / "other"), "is missing"),
    "shards of another folder": (
        lambda f: (f / (WEIGHTS + ".index.json")).write_text('{"weight_map": {"a": "../../../etc/passwd"}}'),
        "its own folder",
    ),
    "deviation 0": (
        lambda f: save_file(
            {"mean": torch.zeros(1210), "std": torch.zeros(1210)}, f / "normalizer/diffusion_pytorch_model.safetensors"
        ),
        "positive",
    ),
    "index {}": (lambda f: (f / "model_index.json").write_text("{}"), "ParameterUpdatePipeline"),
    "index a list": (lambda f: (f / "model_index.json").write_text("[1]"), "JSON object"),
    "index no JSON": (lambda f: (f / "model_index.json").write_text("{"), "not valid JSON"),
    "index not UTF-8": (lambda f: (f / "model_index.json").write_bytes(b"\xff\xfe"), "not valid JSON"),
    "index nested too deep": (lambda f: (f / "model_index.json").write_text("[" * 200_000), "not valid JSON"),
    "index with a number of a million digits": (
        lambda f: (f / "model_index.json").write_text('{"a": ' + "1" * 1_000_000 + "}"),
        "not valid JSON",
    ),
    "a pipeline of diffusers": (index(_class_name="StableDiffusionPipeline"), "model of something else"),
    "a pipeline class of a file": (index(_class_name=["evil", "ParameterUpdatePipeline"]), "something else"),
    "class of another module": (index(transformer=["os", "system"]), "as its transformer"),
    "our class of another module": (index(transformer=["evil", "ParameterTransformer"]), "from g_pt.model.transformer"),
    "class of diffusers": (index(transformer=["diffusers", "UNet2DModel"]), "as its transformer"),
    "scheduler that cannot sample it": (index(scheduler=["diffusers", "PNDMScheduler"]), "as its scheduler"),
    "component a number": (index(normalizer=3), "as its normalizer"),
    "one more component": (index(safety_checker=["subprocess", "Popen"]), "no other parts"),
    "task a list": (index(task=["digits"]), "task"),
    "steps a string": (index(num_inference_steps="many"), "num_inference_steps"),
    "steps 10**12": (index(num_inference_steps=10**12), "num_inference_steps"),
    "training a list": (index(training=[1]), "training"),
    "prompt range of words": (index(training={"prompt_range": ["low", "high"]}), "prompt_range"),
    "prompt range reversed": (index(training={"prompt_range": [2.5, 0.05]}), "lower end first"),
    "attainable range reversed": (index(training={"attainable_range": [2.3, 0.1]}), "better end of the loss first"),
    "a negative loss": (index(training={"prompt_range": [-1, 2.5]}), "must not be negative"),
    "trained runs a string": (index(training={"trained_runs": "good"}), "trained_runs must be an object"),
    "trained runs without a mean": (index(training={"trained_runs": {"test_loss": {}}}), "no entry 'mean'"),
    "dataset a list": (index(training={"dataset": [1]}), "dataset must be an object"),
    "source a list": (source([1]), "source must be an object"),
    "source without a task": (source({"kind": "harvest"}), "the task of a harvest"),
    **{
        f"{name} of the source {value}": (source({"kind": "harvest", "task": "digits", name: value}), f"source: {name}")
        for name in ("num_runs", "num_steps", "num_checkpoints", "runs_per_shard", "batch_size")
        for value in ("many", -5, 0, 10**7, 10**12)
    },
    "10**12 runs learned from": (index(training={"dataset": {"num_runs": 10**12}}), "num_runs"),
    "more runs learned from than made": (
        index(training={"dataset": {"num_runs": 90, "source": {"kind": "harvest", "task": "digits", "num_runs": 10}}}),
        "at most the 10",
    ),
    "alignment a number": (index(training={"alignment": 3}), "alignment must be an object"),
    "width a string": (transformer(width="128"), "width"),
    "width of another model": (transformer(width=20), "of another model"),
    "width 10**9": (transformer(width=10**9), "width"),
    "edge width 10**12": (transformer(edge_width=10**12), "edge_width"),
    "10**9 layers": (transformer(num_layers=10**9), "num_layers"),
    "one more layer": (transformer(num_layers=2), "damaged"),
    "heads 0": (transformer(num_heads=0), "num_heads"),
    "mlp ratio 10**12": (transformer(mlp_ratio=1e12), "mlp_ratio"),
    "frequencies 10**9": (transformer(num_frequencies=10**9), "num_frequencies"),
    "layout of 10**18 parameters": (transformer(layout=[["a", [10**9, 10**9]]]), "parameters"),
    "layout a string": (transformer(layout="fc1"), "layout"),
    "layout of negative sizes": (transformer(layout=[["a", [-1]]]), "layout"),
    "layout of others' networks": (transformer(layout=[["a", [1210]]]), "different kinds"),
    "permutations nonsense": (transformer(permutations={"fc1.weight": 7}), "permutations"),
    "metric nonsense": (transformer(metric={"name": "loss", "unit": "nats", "transform": "eval"}), "transform"),
    "an unknown tokenization": (transformer(tokenization="__import__"), "tokenization"),
    "config a list": (lambda f: (f / "transformer" / "config.json").write_text("[]"), "JSON object"),
    "layout of 200,000 tensors": (transformer(layout=[[str(i), [1]] for i in range(200_000)]), "1210"),
    "layout of 1,210 tensors that the weights lack": (
        transformer(layout=[[str(i), [1]] for i in range(1210)], permutations={}),
        "tokens of different kinds",
    ),
    "more tensors than any network has": (
        lambda f: (transformer(layout=[[str(i), [1]] for i in range(20_000)])(f), resize(f, 20_000)),
        "at most 10,000 tensors",
    ),
    "an axis in a million pieces": (
        transformer(permutations={"fc1.weight": [[["g", 1, 1]] * 1000, [["h", 1, 1]] * 1000]}),
        "pieces",
    ),
    "chunks of one number": (transformer(tokenization="chunks", chunk_size=1), "tokens of different kinds"),
    "10,000 layers": (transformer(num_layers=10_000), "num_layers 10,000"),
    "frequencies 10**6": (transformer(num_frequencies=10**6), "of another model"),
    "an edge width that nothing has": (transformer(edge_width=-1), "edge_width"),
    "metric frequency a string": (transformer(max_metric_frequency="64"), "max_metric_frequency"),
    "metric frequency 10**400": (transformer(max_metric_frequency=10**400), "max_metric_frequency"),
    "minimize a string": (metric(minimize="yes"), "minimize must be true or false"),
    "scale 10**300": (metric(scale=1e300), "scale must be a finite number"),
    "scale 0": (metric(scale=0), "metric scale"),
    "a metric with a line break": (metric(name="loss\n# evil"), "control characters"),
    "a metric of a thousand letters": (metric(name="l" * 1000), "100 letters"),
    "a metric without a name": (metric(name=""), "1 to 100 letters"),
    "a unit a list": (metric(unit=[]), "unit must be a string"),
    "a metric of more entries": (metric(evil=1), "unknown entry 'evil'"),
    "quantized weights": (transformer(quantization_config={"quant_method": "bitsandbytes"}), "unknown entry"),
    "a task of a thousand letters": (index(task="t" * 1000), "task"),
    "a task with a line break": (index(task="digits\n"), "control characters"),
    "an index of 30 MB": (
        lambda f: (f / "model_index.json").write_text('{"a": [' + "[]," * 10**7 + "0]}"),
        "more than",
    ),
    "a config of 30 MB": (
        lambda f: (f / "transformer/config.json").write_text('{"a": [' + "{}," * 10**7 + "0]}"),
        "more than",
    ),
    "an entry that comes twice": (
        lambda f: (f / "scheduler/scheduler_config.json").write_text('{"beta_start": 0.1, "beta_start": 0.2}'),
        "comes twice",
    ),
    "a pipe as index": (lambda f: pipe(f / "model_index.json"), "regular file"),
    "a pipe as config": (lambda f: pipe(f / "normalizer/config.json"), "regular file"),
    "a pipe as weights": (lambda f: pipe(f / WEIGHTS), "regular file"),
    "a device as weights": (lambda f: linked(f / WEIGHTS, "/dev/zero"), "regular file"),
    "a device as index": (lambda f: linked(f / "model_index.json", "/dev/zero"), "regular file"),
    "a device as config": (lambda f: linked(f / "scheduler/scheduler_config.json", "/dev/zero"), "regular file"),
    "a folder as config": (lambda f: folder_of(f / "transformer/config.json"), "regular file"),
    "deviation 10**38": (lambda f: normalizer_of(f, 0, 1e38), "1e-09 to 1e+09"),
    "deviation 10**-38": (lambda f: normalizer_of(f, 0, 1e-38), "1e-09 to 1e+09"),
    "mean 10**38": (lambda f: normalizer_of(f, 1e38, 1), "means of at most 1e+09"),
    "a normalizer of fewer parameters": (lambda f: resize(f, 5), "1210"),
    "more tensors than the model has": (
        lambda f: save_file(
            load_file(f / WEIGHTS) | {f"extra.{i}": torch.zeros(1) for i in range(10_000)}, f / WEIGHTS
        ),
        "does not describe",
    ),
    "a tensor in two files": (
        lambda f: shutil.copy(f / WEIGHTS, (f / WEIGHTS).with_name("diffusion_pytorch_model-2.safetensors")),
        "another file",
    ),
    "three trained betas": (scheduler(trained_betas=[0.1, 0.2, 0.3]), "each of 1000"),
    "trained betas above 1": (scheduler(trained_betas=[2.0] * 1000), "trained_betas"),
    "thresholding with ratio 5": (scheduler(thresholding=True, dynamic_thresholding_ratio=5), "dynamic_thresholding"),
    "clipping a string": (scheduler(clip_sample="yes"), "clip_sample must be true or false"),
    "spacing unknown": (scheduler(timestep_spacing="eval"), "timestep_spacing"),
    "offset 10**12": (scheduler(steps_offset=10**12), "steps_offset"),
    "solver order 10**9": (scheduler(solver_order=10**9), "solver_order"),
    "a setting that is code": (scheduler(variance_type="__import__('os')"), "variance_type"),
    "a setting that is an object": (scheduler(solver_type={"a": 1}), "solver_type"),
    "timesteps 10**12": (scheduler(num_train_timesteps=10**12), "num_train_timesteps"),
    "timesteps of neither": (scheduler(num_train_timesteps=500), "num_train_timesteps"),
    "betas above 1": (scheduler(beta_end=20), "beta_end"),
    "an unknown beta schedule": (scheduler(beta_schedule="nonsense"), "beta_schedule"),
    "another prediction": (scheduler(prediction_type="epsilon"), "prediction_type"),
    "scheduler of another class": (scheduler(_class_name="Popen"), "scheduler_config.json"),
}


@pytest.fixture
def model(random_pipeline, tmp_path) -> Path:
    random_pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_undamaged_model_loads(model):
    with limited():
        ParameterUpdatePipeline.from_pretrained(model)


def test_a_malformed_model_is_one_sentence(model, subtests):
    for number, (name, (damage, word)) in enumerate(MODELS.items()):
        damaged = shutil.copytree(model, model.parent / str(number))
        damage(damaged)
        with subtests.test(name), limited():
            with pytest.raises(OSError, match=r"\S") as error:
                ParameterUpdatePipeline.from_pretrained(damaged)
            assert word in is_one_sentence(error.value)


@pytest.mark.parametrize("name", ["../../../escaped.json", "/tmp/escaped.json", "transformer/../../escaped.json"])
def test_file_names_on_the_hub_do_not_leave_the_cache(name, default_hub, model, tmp_path):
    default_hub.push(REPO, model)
    default_hub.repos[REPO] = {name: b"{}", **default_hub.repos[REPO]}
    with limited():
        try:
            resolve_model(REPO)
        except OSError as error:
            is_one_sentence(error)
    assert not list(tmp_path.rglob("escaped*"))
    assert not Path("/tmp/escaped.json").exists()


def test_python_files_of_a_repository_are_neither_fetched_nor_run(default_hub, model):
    default_hub.push(REPO, model)
    default_hub.repos[REPO]["g_pt_class.py"] = b"raise SystemExit('run')"
    edit_index = json.loads(default_hub.repos[REPO]["model_index.json"])
    edit_index["_class_name"] = ["g_pt_class", "ParameterUpdatePipeline"]
    default_hub.repos[REPO]["model_index.json"] = json.dumps(edit_index).encode()
    with limited():
        ParameterUpdatePipeline.from_pretrained(REPO)
    assert not [path for path in default_hub.requests if path.endswith(".py")]
