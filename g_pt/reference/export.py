"""From a pipeline back to a training checkpoint of the reference, and the YAML that goes with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from g_pt.files.atomic import atomic_path
from g_pt.files.pickled import write_pickled
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.reference_transformer import ReferenceTransformer
from g_pt.reference.released import RELEASED, find_data
from g_pt.reference.settings import METRICS
from g_pt.reference.splits import TokenSizes, find_policy
from g_pt.reference.weights import reference_state

NO_DECAY = ("bias", "pos_emb")  # endings of names that AdamW does not decay; LayerNorms come on top


def export_model(pipeline: ParameterUpdatePipeline, path: Path) -> Path:
    """Write a checkpoint that the reference resumes from or tests, and its YAML beside it; returns the latter.

    `G` and `G_ema` are the same weights, since a pipeline has one set; `optim` is that of an AdamW before its first
    step. Where the YAML says `???` (Hydra's word for a missing value), the reference needs a path of the user.

    Raises:
        ValueError: the pipeline's model is not a chunk-token model, or its normaliser is not one scale for everything.
    """
    model = pipeline.transformer
    if not isinstance(model, ReferenceTransformer):
        raise ValueError(
            f"only chunk-token models (ReferenceTransformer) have a form in the reference, got {type(model).__name__}"
        )
    if path.suffix != ".pt":
        raise ValueError(f"a checkpoint of the reference ends in .pt, got {path}")
    state = reference_state(model)
    config = reference_config(pipeline)
    write_pickled(path, {"G": state, "G_ema": state, "optim": fresh_optimizer(state)})
    with atomic_path(path.with_suffix(".yaml")) as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False))
    return path.with_suffix(".yaml")


def fresh_optimizer(state: dict[str, Tensor]) -> dict[str, Any]:
    """State of the reference's AdamW before its first step: decayed matrices, then the rest, each sorted by name."""
    names = [name for name in state if name != "scalar_embedder.frequencies"]
    plain = [n for n in names if n.endswith(NO_DECAY) or state[n].dim() < 2]
    groups = [
        {"params": [torch.nn.Parameter(state[n]) for n in sorted(set(names) - set(plain))], "weight_decay": 0.1},
        {"params": [torch.nn.Parameter(state[n]) for n in sorted(plain)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=4e-4, betas=(0.9, 0.999)).state_dict()


def reference_config(pipeline: ParameterUpdatePipeline) -> dict[str, Any]:
    """The part of the reference's configuration that describes a model and its data.

    Raises:
        ValueError: its normalisation or its tokens have no form there.
    """
    model, std, mean = pipeline.transformer.config, pipeline.normalizer.std, pipeline.normalizer.mean
    if mean.any() or (std != std[0]).any():
        raise ValueError("the reference has one scale for all parameters and no centring; this normaliser has more")
    layout = pipeline.layout
    policy, chunk_size = find_policy(
        TokenSizes(tuple(model.input_sizes), tuple(model.output_sizes)),
        layout.sizes,
        num_frequencies=model.num_frequencies,
        absolute_metrics=model.absolute_metrics,
    )
    metric = {ours: theirs for theirs, ours in METRICS.items()}.get(pipeline.metric.name, "???")
    data = find_data(tensor_sizes=layout.sizes)
    names = [n for n, m in RELEASED.items() if data and (m.task, m.metric) == (data.task, pipeline.metric.name)]
    return {
        "resume_path": "???",
        "dataset": {
            "name": names[0] if names else "???",
            "train_metric": metric,
            "path": "???",
            "normalizer": "openai",
            "openai_coeff": float(f"{1 / std[0].item():.7g}"),  # float32 has no more digits
        },
        "transformer": {
            "ema": True,
            "absolute_loss_conditioning": model.absolute_metrics,
            "predict_xstart": model.prediction_type == "sample",
            "chunk_size": chunk_size,
            "split_policy": policy,
            "max_freq_log2": model.max_frequency_log2,
            "num_frequencies": model.num_frequencies,
            "n_embd": model.width,
            "encoder_depth": model.encoder_depth,
            "decoder_depth": model.decoder_depth,
            "n_layer": model.num_layers,
            "n_head": model.num_heads,
            "dropout_prob": model.residual_dropout,
        },
        "parameter_sizes": list(layout.sizes),
        "parameter_names": list(layout.names),
    }
