"""Names of the reference's tensors against ours, in both directions, and what its tensors say about the model.

W = width, S = tokens, T = tokens that are decoded, F = frequencies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from g_pt.model.reference_layers import TokenLinear
from g_pt.model.reference_transformer import ReferenceTransformer
from g_pt.reference.splits import TokenSizes

POSITIONS = "decoder.pos_emb"
FREQUENCIES = "scalar_embedder.frequencies"
FREQUENCY_BITS = "sinusoids.frequency_bits"
ENCODERS, DECODERS = "decoder.input_parameter_projections", "decoder.output_parameter_projections"
# ours -> theirs, outside of the blocks and inside of one
PLAIN = {
    "norm_in.weight": "decoder.ln_in.weight",
    "norm_in.bias": "decoder.ln_in.bias",
    "norm.weight": "decoder.ln_f.weight",
    "norm.bias": "decoder.ln_f.bias",
}
BLOCK = {
    "norm1": "ln1",
    "norm2": "ln2",
    "proj": "attn.proj",
    "mlp.0": "mlp.0",
    "mlp.2": "mlp.2",
}
QKV = ("attn.query", "attn.key", "attn.value")
# what wrappers put in front of names: DataParallel and DDP, torch.compile, FSDP
PREFIXES = re.compile(r"(^|\.)(module|_orig_mod|_fsdp_wrapped_module)\.")


@dataclass(frozen=True)
class TensorFacts:
    """Sizes of the model, read off the tensors of a checkpoint.

    Attributes:
        sizes: of the tokens.
        width: W.
        num_layers: blocks.
        encoder_depth: matrices that encode a token.
        decoder_depth: matrices that decode one.
        num_frequencies: F.
        max_frequency_log2: None where the checkpoint lacks its frequencies.
        absolute_metrics: whether there are four scalars, not two.
    """

    sizes: TokenSizes
    width: int
    num_layers: int
    encoder_depth: int
    decoder_depth: int
    num_frequencies: int
    max_frequency_log2: float | None
    absolute_metrics: bool

    @property
    def num_params(self) -> int:
        """P of the networks that the model updates."""
        return sum(self.sizes.outputs)


def without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, under the names they have in a model that nothing wraps."""
    renamed = {}
    for name, tensor in state.items():
        while PREFIXES.search(name):
            name = PREFIXES.sub(r"\1", name, count=1)
        renamed[name] = tensor
    return renamed


def read_facts(state: Mapping[str, Tensor]) -> TensorFacts:
    """Read the architecture off a reference model's state dict (names without prefixes).

    Raises:
        ValueError: a tensor is missing, or sizes contradict each other: not a G.pt of the reference.
    """
    if POSITIONS not in state or state[POSITIONS].dim() != 3:
        raise ValueError(f"the weights lack {POSITIONS!r} (1, tokens, width): not a G.pt of the reference")
    _, num_tokens, width = state[POSITIONS].shape
    encoders, decoders = matrices(state, ENCODERS), matrices(state, DECODERS)
    if len(encoders) != num_tokens or not decoders:
        raise ValueError(
            f"{num_tokens} tokens need as many encoders and at least one decoder, got {len(encoders)} and "
            f"{len(decoders)}: not a G.pt of the reference, or damaged"
        )
    sizes = TokenSizes(
        tuple(encoder[0].shape[1] for encoder in encoders), tuple(decoder[-1].shape[0] for decoder in decoders)
    )
    blocks = {int(match[1]) for name in state if (match := re.match(r"decoder\.blocks\.(\d+)\.", name))}
    if blocks != set(range(len(blocks))) or not blocks:
        raise ValueError(f"blocks must be numbered from 0 without gaps, got {sorted(blocks)}: damaged weights")
    rest = sum(sizes.inputs) - 2 * sum(sizes.outputs)  # of all scalars; an odd number each, 2 or 4 of them
    num_scalars = 4 if rest % 4 == 0 else 2
    num_frequencies = (rest // num_scalars - 1) // 2
    if rest <= 0 or num_scalars * (2 * num_frequencies + 1) != rest:
        raise ValueError(f"tokens hold {rest} numbers besides two vectors of parameters: no 2 or 4 embedded scalars")
    highest = None
    if FREQUENCIES in state:
        if state[FREQUENCIES].shape != (num_frequencies,):
            raise ValueError(f"{FREQUENCIES!r} must hold {num_frequencies}, got {tuple(state[FREQUENCIES].shape)}")
        highest = round(math.log2(state[FREQUENCIES][-1].item()), 6)
    return TensorFacts(
        sizes, width, len(blocks), len(encoders[0]), len(decoders[0]), num_frequencies, highest, num_scalars == 4
    )


def matrices(state: Mapping[str, Tensor], prefix: str) -> list[list[Tensor]]:
    """Matrices of each token's encoder or decoder; GELUs count in the reference's numbering, hence 0, 2, 4."""
    found: list[list[Tensor]] = []
    while f"{prefix}.{len(found)}.0.weight" in state:
        token: list[Tensor] = []
        while (weight := state.get(f"{prefix}.{len(found)}.{2 * len(token)}.weight")) is not None:
            token.append(weight)
        found.append(token)
    return found


def token_linears(model: ReferenceTransformer) -> list[tuple[str, TokenLinear, str, int]]:
    """Every `TokenLinear` of a model: our name, the module, the reference's prefix and its place in the sequence."""
    config = model.config
    places = {"encoder.first": (ENCODERS, 0), "decoder.last": (DECODERS, 2 * (config.decoder_depth - 1))}
    places |= {f"encoder.rest.{i}": (ENCODERS, 2 * (i + 1)) for i in range(config.encoder_depth - 1)}
    places |= {f"decoder.rest.{i}": (DECODERS, 2 * i) for i in range(config.decoder_depth - 1)}
    modules = {name: module for name, module in model.named_modules() if isinstance(module, TokenLinear)}
    return [(name, modules[name], *place) for name, place in places.items()]


def load_reference_state(model: ReferenceTransformer, state: Mapping[str, Tensor]) -> None:
    """Copy the reference's weights (names without prefixes) into a model of the same architecture.

    Raises:
        ValueError: a tensor is missing or not known, or has another shape; the error names it.
    """
    ours = model.state_dict()
    wanted = reference_state(model)  # of the right names and shapes
    extra = sorted(set(state) - set(wanted))
    missing = sorted(set(wanted) - set(state) - {FREQUENCIES})
    if missing or extra:
        raise ValueError(f"the weights lack {missing[:3]} and have {extra[:3]} too many: not a G.pt of the reference")
    for name, tensor in wanted.items():
        if name in state and state[name].shape != tensor.shape:
            raise ValueError(f"{name!r} must have shape {tuple(tensor.shape)}, got {tuple(state[name].shape)}")
    ours["positions"] = state[POSITIONS][0]
    if FREQUENCIES in state:
        ours[FREQUENCY_BITS] = state[FREQUENCIES].float().contiguous().view(torch.int32)
    ours |= {name: state[theirs] for name, theirs in PLAIN.items()}
    for i in range(len(model.blocks)):
        block, theirs = f"blocks.{i}", f"decoder.blocks.{i}"
        for kind in ("weight", "bias"):
            ours[f"{block}.qkv.{kind}"] = torch.cat([state[f"{theirs}.{part}.{kind}"] for part in QKV])
            ours |= {f"{block}.{a}.{kind}": state[f"{theirs}.{b}.{kind}"] for a, b in BLOCK.items()}
    for name, linear, prefix, place in token_linears(model):
        for group, (_, tokens) in enumerate(linear.groups):
            ours[f"{name}.weights.{group}"] = torch.stack([state[f"{prefix}.{t}.{place}.weight"].T for t in tokens])
    model.load_state_dict(ours)


def reference_state(model: ReferenceTransformer) -> dict[str, Tensor]:
    """A model's weights under the reference's names, in the order in which it writes them; the inverse of loading."""
    ours = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    theirs = {POSITIONS: ours["positions"][None]}
    for i in range(len(model.blocks)):
        block, prefix = f"blocks.{i}", f"decoder.blocks.{i}"
        qkv = {k: ours[f"{block}.qkv.{k}"].chunk(3) for k in ("weight", "bias")}
        for a in ("norm1", "norm2"):
            theirs |= {f"{prefix}.{BLOCK[a]}.{k}": ours[f"{block}.{a}.{k}"] for k in ("weight", "bias")}
        for part in ("attn.key", "attn.query", "attn.value"):
            theirs |= {f"{prefix}.{part}.{k}": qkv[k][QKV.index(part)] for k in ("weight", "bias")}
        for a in ("proj", "mlp.0", "mlp.2"):
            theirs |= {f"{prefix}.{BLOCK[a]}.{k}": ours[f"{block}.{a}.{k}"] for k in ("weight", "bias")}
    encoders: dict[tuple[int, int], tuple[str, Tensor]] = {}
    decoders: dict[tuple[int, int], tuple[str, Tensor]] = {}
    for name, linear, prefix, place in token_linears(model):
        for token in range(linear.num_tokens):
            group, row = linear.matrix(token)
            tensors = encoders if prefix == ENCODERS else decoders
            tensors[token, place] = (f"{prefix}.{token}.{place}.weight", ours[f"{name}.weights.{group}"][row].T)
    theirs |= dict(value for _, value in sorted(encoders.items()))
    theirs |= {name: ours[a] for a, name in PLAIN.items()}
    theirs |= dict(value for _, value in sorted(decoders.items()))
    theirs[FREQUENCIES] = ours[FREQUENCY_BITS].view(torch.float32)
    return {name: tensor.clone().contiguous() for name, tensor in theirs.items()}
