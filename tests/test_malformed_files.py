"""Models, networks and data sets that are damaged or hostile: one sentence, no code run, no absurd memory, no hang.

Each entry of the tables changes good files. All are loaded under a limit on the address space, so that what asks for
much memory fails here even where the system would lend it.
"""

import json
import pickle
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_fixtures import write_synthetic
from safetensors.torch import load_file, save_file

from checkpoints_dataset.exchange import export_parquet, import_parquet
from checkpoints_dataset.store import CheckpointStore
from checkpoints_dataset.writer import fingerprint
from g_pt.commands import sample
from g_pt.hub import resolve_model
from g_pt.network_files import read_network
from g_pt.pipeline import ParameterUpdatePipeline

REPO = "org/name"
EXTRA_MEMORY = 3 << 30
TOUCHED: list[str] = []
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


class Payload:
    """A pickle that tells when it is run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (TOUCHED.append, ("a pickle was run",))


@pytest.fixture(autouse=True)
def limits():
    """Little memory and time; nothing may have run."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_MEMORY, before[1]))
    TOUCHED.clear()
    started = time.perf_counter()
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.perf_counter() - started < 60
    assert TOUCHED == []


def is_one_sentence(error: BaseException) -> str:
    message = str(error)
    assert "\n" not in message.strip()
    assert 20 < len(message) < 600
    return message


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file."""
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(path: Path, header: Any, body: bytes | None = None) -> None:
    """Write a safetensors file with any header."""
    body = header_of(path)[1] if body is None else body
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def changed_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    header, body = header_of(path)
    change(header)
    with_header(path, header, body)


def first(header: dict[str, Any]) -> dict[str, Any]:
    """A tensor of a header that others lie behind."""
    return min((e for k, e in header.items() if k != "__metadata__"), key=lambda e: e["data_offsets"])


def overlap(header: dict[str, Any]) -> None:
    """Two tensors on the same bytes."""
    entries = [e for k, e in header.items() if k != "__metadata__"]
    alike = next((a, b) for a in entries for b in entries if a is not b and a["shape"] == b["shape"])
    alike[1]["data_offsets"] = alike[0]["data_offsets"]


# damage that any safetensors file can have -> what it does to the file, and a word of the error
TENSOR_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "safetensors"),
    "seven bytes": (lambda p: p.write_bytes(b"1234567"), "safetensors"),
    "huge header length": (lambda p: p.write_bytes(struct.pack("<Q", 2**63) + p.read_bytes()[8:]), "header"),
    "header longer than the file": (
        lambda p: p.write_bytes(struct.pack("<Q", p.stat().st_size) + p.read_bytes()[8:]),
        "header",
    ),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-10]), "truncated"),
    "more bytes than tensors": (lambda p: p.write_bytes(p.read_bytes() + b"0" * 16), "truncated or altered"),
    "header not UTF-8": (lambda p: with_header(p, b"\xff\xfe{}"), "JSON"),
    "header a list": (lambda p: with_header(p, [1, 2]), "JSON object"),
    "header nested too deep": (lambda p: with_header(p, b"[" * 200_000), "JSON"),
    "tensor without a shape": (lambda p: changed_header(p, lambda h: first(h).pop("shape")), "shape"),
    "wrong dtype": (lambda p: changed_header(p, lambda h: first(h).update(dtype="F128")), "F128"),
    "dtype a list": (lambda p: changed_header(p, lambda h: first(h).update(dtype=["F32"])), "F32"),
    "dtype of another size": (lambda p: changed_header(p, lambda h: first(h).update(dtype="F64")), "fit"),
    "negative shape": (lambda p: changed_header(p, lambda h: first(h).update(shape=[-1])), "whole numbers"),
    "huge shape": (lambda p: changed_header(p, lambda h: first(h).update(shape=[2**40, 2**40])), "fit"),
    "huge offsets": (lambda p: changed_header(p, lambda h: first(h).update(data_offsets=[0, 2**62])), "fit"),
    "overlapping tensors": (lambda p: changed_header(p, overlap), "begin at byte"),
    "a pickle by that name": (lambda p: p.write_bytes(pickle.dumps(Payload())), "safetensors"),
    "a zip by that name": (lambda p: torch.save({"a": torch.zeros(3)}, p), "safetensors"),
}


def set_tensor(path: Path, value: float) -> None:
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] = value
    save_file(tensors, path, metadata={"format": "pt"})


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
    "our class of another module": (index(transformer=["evil", "ParameterTransformer"]), "from g_pt.transformer"),
    "class of diffusers": (index(transformer=["diffusers", "UNet2DModel"]), "as its transformer"),
    "scheduler that cannot sample it": (index(scheduler=["diffusers", "PNDMScheduler"]), "as its scheduler"),
    "component a number": (index(normalizer=3), "as its normalizer"),
    "one more component": (index(safety_checker=["subprocess", "Popen"]), "no other parts"),
    "task a list": (index(task=["digits"]), "task"),
    "steps a string": (index(num_inference_steps="many"), "num_inference_steps"),
    "steps 10**12": (index(num_inference_steps=10**12), "num_inference_steps"),
    "training a list": (index(training=[1]), "training"),
    "prompt range of words": (index(training={"prompt_range": ["low", "high"]}), "prompt_range"),
    "width a string": (transformer(width="128"), "width"),
    "width of another model": (transformer(width=20), "width"),
    "width 10**9": (transformer(width=10**9), "width"),
    "edge width 10**12": (transformer(edge_width=10**12), "edge_width"),
    "10**9 layers": (transformer(num_layers=10**9), "num_layers"),
    "one more layer": (transformer(num_layers=2), "damaged"),
    "heads 0": (transformer(num_heads=0), "num_heads"),
    "mlp ratio 10**12": (transformer(mlp_ratio=1e12), "mlp_ratio"),
    "frequencies 10**9": (transformer(num_frequencies=10**9), "num_frequencies"),
    "layout of 10**18 parameters": (transformer(layout=[["a", [10**9, 10**9]]]), "mean and std"),
    "layout a string": (transformer(layout="fc1"), "layout"),
    "layout of negative sizes": (transformer(layout=[["a", [-1]]]), "layout"),
    "layout of others' networks": (transformer(layout=[["a", [1210]]]), "cannot be loaded"),
    "permutations nonsense": (transformer(permutations={"fc1.weight": 7}), "cannot be loaded"),
    "metric nonsense": (transformer(metric={"name": "loss", "unit": "nats", "transform": "eval"}), "transform"),
    "an unknown tokenization": (transformer(tokenization="__import__"), "tokenization"),
    "config a list": (lambda f: (f / "transformer" / "config.json").write_text("[]"), "JSON object"),
    "timesteps 10**12": (scheduler(num_train_timesteps=10**12), "num_train_timesteps"),
    "timesteps of neither": (scheduler(num_train_timesteps=500), "num_train_timesteps"),
    "betas above 1": (scheduler(beta_end=20), "beta_end"),
    "an unknown beta schedule": (scheduler(beta_schedule="nonsense"), "cannot be loaded"),
    "another prediction": (scheduler(prediction_type="epsilon"), "prediction_type"),
    "scheduler of another class": (scheduler(_class_name="Popen"), "scheduler_config.json"),
}


@pytest.fixture
def model(random_pipeline, tmp_path) -> Path:
    random_pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_undamaged_model_loads(model):
    ParameterUpdatePipeline.from_pretrained(model)


@pytest.mark.parametrize("name", MODELS)
def test_a_malformed_model_is_one_sentence(name, model):
    damage, word = MODELS[name]
    damage(model)
    with pytest.raises(OSError, match=r"\S") as error:
        ParameterUpdatePipeline.from_pretrained(model)
    assert word in is_one_sentence(error.value)


@pytest.mark.parametrize("name", ["../../../escaped.json", "/tmp/escaped.json", "transformer/../../escaped.json"])
def test_file_names_on_the_hub_do_not_leave_the_cache(name, default_hub, model, tmp_path):
    default_hub.push(REPO, model)
    default_hub.repos[REPO] = {name: b"{}", **default_hub.repos[REPO]}
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
    ParameterUpdatePipeline.from_pretrained(REPO)
    assert not [path for path in default_hub.requests if path.endswith(".py")]


NETWORKS: dict[str, tuple[Callable[[Path], object], str]] = {
    **TENSOR_FILES,
    "NaN": (lambda p: save_file({k: t.log() for k, t in load_file(p).items() if k != "twin"}, p), "NaN"),
    "another architecture": (lambda p: save_file({"fc1.weight": torch.zeros(3, 3)}, p), "fc1.weight"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_malformed_network_is_one_sentence(name, digits, tmp_path):
    path, (damage, word) = tmp_path / "network.safetensors", NETWORKS[name]
    tensors = digits.layout.unflatten(digits.init(1, torch.Generator().manual_seed(0))[0])
    # a twin of the first bias gives the overlap something to overlap with
    save_file({**{k: t.clone() for k, t in tensors.items()}, "twin": tensors["fc1.bias"].clone()}, path)
    damage(path)
    with pytest.raises((ValueError, OSError)) as error:
        read_network(path, digits.layout)
    assert word in is_one_sentence(error.value)


def stretched(path: Path) -> None:
    """Four bytes that claim to be 10**12 numbers."""
    torch.save({"fc1.weight": torch.zeros(1).expand(10**12)}, path)


@pytest.mark.parametrize(
    "damage",
    [lambda p: p.write_bytes(pickle.dumps(Payload())), lambda p: p.write_bytes(b""), stretched],
    ids=["code", "empty", "stretched"],
)
def test_a_malformed_pt_file_is_one_sentence(damage, digits, tmp_path):
    damage(tmp_path / "network.pt")
    with pytest.raises(ValueError, match=r"\S") as error:
        read_network(tmp_path / "network.pt", digits.layout)
    is_one_sentence(error.value)


def test_the_command_says_it_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("start.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(SystemExit):
        sample.main(["--prompt-loss", "0.5", "--start", "start.safetensors"])
    error = capsys.readouterr().err
    assert "header would have" in error
    assert error.count("\n") == 1


def parquet(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change a table and the listing of its file, as one who means harm would."""

    def damage(folder: Path) -> None:
        import pyarrow.parquet as pq

        path = folder / "train" / "shard-00000.parquet"
        table = change(pq.read_table(path))
        pq.write_table(table, path)
        listed = {"rows": len(table), **fingerprint(path)}
        edit(folder / "shard-00000.json", lambda m: m["files"].update({"train/shard-00000.parquet": listed}))

    return damage


def narrower(table: Any) -> Any:
    import pyarrow as pa

    short = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(5 * len(table), dtype=np.float32)), 5)
    return table.set_column(table.column_names.index("params"), "params", short)


def manifest(**entries: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "shard-00000.json", lambda m: m.update(entries))


def header(**entries: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "dataset.json", lambda h: h.update(entries))


RUNS = [{"run": 0, "first_row": 0, "num_checkpoints": 10**15, "metadata": {}}]
DATASETS: dict[str, tuple[Callable[[Path], object], str]] = {
    "header {}": (lambda f: (f / "dataset.json").write_text("{}"), "dataset.json"),
    "header missing": (lambda f: (f / "dataset.json").unlink(), "dataset.json"),
    "of a newer version": (header(version=99), "version"),
    "dtype nonsense": (header(dtype="object"), "dtype"),
    "layout of 10**18 parameters": (header(layout=[["a", [10**9, 10**9]]]), "too many"),
    "more shards than there are": (header(num_shards=10**12), "missing"),
    "manifest {}": (lambda f: (f / "shard-00000.json").write_text("{}"), "shard-00000.json"),
    "manifest of 10**15 checkpoints": (manifest(runs=RUNS), "checkpoints"),
    "runs a number": (manifest(runs=7), "shard-00000.json"),
    "an array of 10**12 numbers": (manifest(arrays={"mask": {"dtype": "F32", "shape": [10**12]}}), "mask"),
    "an array of nonsense": (manifest(arrays={"mask": {"dtype": "object", "shape": []}}), "mask"),
    "a file of another folder": (manifest(files={"../../etc/passwd": {"rows": 80}}), "must list"),
    "a file that is missing": (lambda f: (f / "train" / "shard-00000.parquet").unlink(), "is missing"),
    "a file that was altered": (
        lambda f: (f / "train" / "shard-00000.parquet").write_bytes(b"PAR1" + b"0" * 500),
        "checksum",
    ),
    "a column missing": (parquet(lambda t: t.drop_columns(["loss"])), "no column 'loss'"),
    "vectors of another length": (parquet(narrower), "params"),
    "a run that is not listed": (
        parquet(lambda t: t.set_column(0, "run", [np.full(len(t), 77)])),
        "does not list all runs",
    ),
    "fewer rows": (parquet(lambda t: t.slice(1)), "rows"),
}


@pytest.mark.parametrize("name", DATASETS)
def test_a_malformed_configuration_is_one_sentence(name, tmp_path):
    write_synthetic(tmp_path / "store", num_shards=1)
    export_parquet(CheckpointStore(tmp_path / "store"), tmp_path / "parquet")
    damage, word = DATASETS[name]
    damage(tmp_path / "parquet")
    with pytest.raises((ValueError, OSError)) as error:
        import_parquet(tmp_path / "parquet", tmp_path / "back")
    assert word in is_one_sentence(error.value)


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_a_malformed_shard_with_matching_checksums_is_one_sentence(name, tmp_path):
    write_synthetic(tmp_path / "store", num_shards=1)
    path = tmp_path / "store" / "shard-00000.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "twin": tensors["params"].clone()}, path)
    damage, word = TENSOR_FILES[name]
    damage(path)
    edit(path.with_suffix(".json"), lambda m: m["files"].update({path.name: fingerprint(path)}))
    with pytest.raises(ValueError, match=r"\S") as error:
        CheckpointStore(tmp_path / "store").params(np.arange(3))
    assert word in is_one_sentence(error.value)
