"""Weights of a model of one size as weights of a model for any size, which begins with the same outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from g_pt.model.transformer import ParameterTransformer

PER_TOKENS = ("encoders", "decoders", "edge_encoders", "edge_decoders", "kinds", "log_sizes", "places")


@torch.no_grad()
def share_weights(model: ParameterTransformer, trained: ParameterTransformer) -> None:
    """Copy a model of unit tokens into one of the same layout with an encoder for each kind of tensor.

    A group's encoder reads the numbers of all its tensors side by side: its columns become the encoders of their kinds.
    What several groups have becomes the mean of theirs, so that outputs are equal where each kind occurs once, as in
    a network with one hidden layer. What tells tokens their size begins at zero, other kinds stay as they were drawn.

    Raises:
        ValueError: the models differ in layout or size.
    """
    if model.kinds is None or trained.kinds is not None or trained.config.tokenization != "units":
        raise ValueError("weights are shared between a model of tokenization 'units' and one of 'kinds'")
    if model.layout != trained.layout:
        raise ValueError(f"the trained model is of {trained.layout.describe()}, wanted is {model.layout.describe()}")
    source, target = trained.state_dict(), model.state_dict()
    for name in source.keys() & target.keys():
        if not name.startswith(("tokens.", "mixings.")):
            if source[name].shape != target[name].shape:
                raise ValueError(f"{name} has shape {tuple(source[name].shape)}, wanted is {tuple(target[name].shape)}")
            target[name].copy_(source[name])
    for name in target:
        if name.startswith(("tokens.log_sizes.", "tokens.places.")):
            target[name].zero_()
    share_tokens(model, source, target)
    parts, before = model.tokens.plan.edges, trained.tokens.plan.edges
    for prefix in (
        "tokens.edge_encoders.",
        "tokens.edge_decoders.",
        *(f"mixings.{i}.mixings." for i in range(len(model.blocks))),
    ):
        for kind in {part.kind for part in parts}:
            same = [old.kind for new, old in zip(parts, before, strict=True) if new.kind == kind]
            for name in [n for n in target if n.startswith(f"{prefix}{kind}.")]:
                rest = name.removeprefix(f"{prefix}{kind}.")
                target[name].copy_(torch.stack([source[f"{prefix}{k}.{rest}"] for k in same]).mean(dim=0))


def share_tokens(model: ParameterTransformer, source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """The encoders, decoders and kinds of tokens."""
    plan, taken = model.tokens.plan, dict[int, int]()
    found: dict[str, list[Tensor]] = {}
    for part in plan.parts:
        group, own, first = part.place, part.shape[-1], taken.get(part.place, 0)
        weight, bias = source[f"tokens.encoders.{group}.weight"], source[f"tokens.encoders.{group}.bias"]
        all_own, columns = weight.shape[1] // 2, slice(first, first + own)
        pieces = {
            f"tokens.encoders.{part.kind}.weight": weight.unflatten(1, (2, all_own))[:, :, columns].flatten(1),
            f"tokens.encoders.{part.kind}.bias": torch.zeros_like(bias) if first else bias,
            f"tokens.decoders.{part.kind}.weight": source[f"tokens.decoders.{group}.weight"][columns],
            f"tokens.decoders.{part.kind}.bias": source[f"tokens.decoders.{group}.bias"][columns],
            f"kinds.{part.kind}": torch.zeros_like(bias) if first else source["tokens.kinds"][group],
        }
        for name, tensor in pieces.items():
            found.setdefault(name, []).append(tensor)
        taken[group] = first + own
    for name, tensors in found.items():
        mean = torch.stack(tensors).mean(dim=0)
        (target["tokens.kinds"][int(name.removeprefix("kinds."))] if name.startswith("kinds.") else target[name]).copy_(
            mean
        )
