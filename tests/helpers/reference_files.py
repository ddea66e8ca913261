"""Files in the formats of the reference, made by the tests; and where files that it wrote itself lie, if at all."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.reference_loop import LoopTransformer
from g_pt.reference.splits import token_sizes

ROOT = Path(__file__).parents[2]
# outputs of the reference for its own files; kept beside the repository, not in it
PLACES = (os.environ.get("G_PT_REFERENCE_FILES", ""), ROOT.parent / "shared" / "fixtures" / "reference_gpt")
FOUND = [Path(place) for place in PLACES if place and Path(place).is_dir()]
needs_reference_files = pytest.mark.skipif(not FOUND, reason="G_PT_REFERENCE_FILES: files written by the reference")

CARTPOLE = (1, 128, 32, 1024, 32, 32, 1)
ARCHITECTURES = {
    "mnist": {"tensors": (7840, 10, 100, 10), "policy": "chunk_within_layer", "chunk": 1000},
    "layers": {"tensors": CARTPOLE, "policy": "layer_by_layer", "chunk": None},
    "inputs": {"tensors": (12, 5, 9), "policy": "chunk_within_input", "chunk": 8, "frequencies": 4},
    "chunks": {"tensors": (12, 5, 9), "policy": "chunk", "chunk": 7, "frequencies": 3},
    "deep": {"tensors": (12, 5, 12), "policy": "chunk_within_layer", "chunk": 6, "encoders": 3, "decoders": 2},
    "delta": {"tensors": (12, 5, 9), "policy": "chunk", "chunk": 10, "absolute": False, "decoders": 3},
}


def reference_files() -> Path:
    return FOUND[0]


def sizes_of(spec):
    return token_sizes(
        spec["tensors"],
        spec["policy"],
        spec["chunk"],
        num_frequencies=spec.get("frequencies", 128),
        absolute_metrics=spec.get("absolute", True),
    )


def loop_model(spec, *, width=16, num_layers=2, num_heads=2, seed=0) -> LoopTransformer:
    """The plain form, every weight random."""
    sizes = sizes_of(spec)
    model = LoopTransformer(
        sizes.inputs,
        sizes.outputs,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        encoder_depth=spec.get("encoders", 1),
        decoder_depth=spec.get("decoders", 1),
        num_frequencies=spec.get("frequencies", 128),
        max_frequency_log2=5.0,
        absolute_metrics=spec.get("absolute", True),
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def batch_for(spec, num=3):
    """Arguments of `forward`."""
    generator = torch.Generator().manual_seed(1)
    num_params = sum(spec["tensors"])
    x_t, x_start = (torch.randn(num, num_params, generator=generator) for _ in range(2))
    metrics = torch.rand(2, num, generator=generator)
    return x_t, torch.randint(1000, (num,), generator=generator), x_start, metrics[0], metrics[1]


def write_checkpoint(path: Path, raw, ema=None, prefix="", **entries) -> Path:
    """A training checkpoint as the reference writes it."""
    content = {"G": {prefix + name: tensor for name, tensor in raw.state_dict().items()}, "optim": {"state": {}}}
    if ema is not None:
        content["G_ema"] = {prefix + name: tensor for name, tensor in ema.state_dict().items()}
    torch.save(content | entries, path)
    return path


def write_run(
    folder: Path, names=("000000",), *, keys=None, num_params=7960, sizes=(7840, 10, 100, 10), scale=0.1, rl=False
):
    """One LMDB folder of one or several runs; returns `{key: vector}`."""
    import lmdb

    path = folder / "_".join(names)
    path.mkdir(parents=True)
    keys = keys or (
        ["it00000.pt", "it00007.pt"] if rl else ["ep000_it00000.pt", "ep000_it00019.pt", "ep001_it00002.pt"]
    )
    vectors, listings = {}, {}
    rng = np.random.default_rng([int(name, 36) for name in names])
    with lmdb.open(str(path), map_size=1 << 24, lock=False) as environment:
        for name in names:
            checkpoints = {}
            for number, key in enumerate(keys):
                full = f"{name}/{key}"
                vectors[full] = (scale * rng.standard_normal(num_params)).astype(np.float32)
                with environment.begin(write=True) as transaction:  # one for each record, as in the reference
                    transaction.put(full.encode(), vectors[full].tobytes())
                    transaction.put(f"{full}_arch".encode(), np.array(sizes, dtype=np.float32).tobytes())
                loss = 2.3 / (number + 1) + 1e-9  # not a float32
                checkpoints[full] = (
                    {"train_ret": 20.5 * number}
                    if rl
                    else {
                        "avg_test_err": 90.0 - number,
                        "avg_test_loss": loss,
                        "avg_train_err": 91.0,
                        "avg_train_loss": 2.0,
                    }
                )
            listings[name] = {"checkpoints": checkpoints, "metadata": {"max_parameter_val": 1.0}}
    (path / "runs.json").write_text(json.dumps(listings if len(names) > 1 else listings[names[0]], sort_keys=True))
    (path / "DONE.txt").touch()
    return vectors
