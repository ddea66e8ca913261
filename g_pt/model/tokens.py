"""Parameter vectors as tokens and edges: exactly equivariant to reorderings of units.

Each unit of `g_pt.permutations.units` is a token, each pair of units of a tensor between two groups an edge, each chunk
a token. All units of a group, and all edges of a pair of groups, share one encoder and one decoder (of a model for any
size, all tensors of a kind do: `g_pt.permutations.plans`) and carry no position, so that f(permuted x) = permuted f(x)
for any network of attention and shared layers on top.

B = batch, P = parameters per network, S = tokens, W = width, U = units of a group, K = numbers per unit, edge or
chunk, R / C = units of the groups of an edge tensor's rows / columns, E = edge width.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from g_pt.model.batched_layers import apply_linears
from g_pt.model.embeddings import ScalarEmbedding
from g_pt.permutations.plans import NUM_PLACES, NUM_SIZES, TokenPlan, edge_kind

# of the logarithms of sizes, which span a few units
SIZE_FREQUENCIES, MAX_SIZE_FREQUENCY = 4, 2.0


class ParameterTokens(nn.Module):
    """Encoder from two vectors (noised and start, side by side) to tokens and edges, and decoder back."""

    gather: Tensor
    scatter: Tensor

    def __init__(
        self,
        plan: TokenPlan,
        width: int,
        edge_width: int,
        *,
        positions: bool = False,
        kinds: Mapping[str, int] | None = None,
    ) -> None:
        """One encoder and one decoder per group, chunk and pair of groups; or per kind, where `kinds` are given.

        Decoders start at zero, so that training starts at the identity. `positions` gives every token a learned
        position, for tokenizations that are not equivariant. With kinds, tokens are told the sizes and the place of
        their layer, and `encode` and `decode` take the plan of any network whose tensors are of these kinds.
        """
        super().__init__()
        self.use(plan)
        if kinds is None:
            numbers, edge_numbers = ([part.shape[-1] for part in parts] for parts in (plan.parts, plan.edges))
        else:
            numbers, edge_numbers = ([k for kind, k in kinds.items() if edge_kind(kind) is e] for e in (False, True))
        with warnings.catch_warnings():
            # units all of whose tensors are edges own no numbers
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            self.encoders = nn.ModuleList(nn.Linear(2 * k, width) for k in numbers)
            self.decoders = nn.ModuleList(nn.Linear(width, k) for k in numbers)
        self.kinds = nn.Parameter(0.02 * torch.randn(len(numbers), width))
        self.edge_encoders = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * k, edge_width), nn.GELU(), nn.Linear(edge_width, edge_width))
            for k in edge_numbers
        )
        self.edge_decoders = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(edge_width), nn.Linear(edge_width, k)) for k in edge_numbers
        )
        if positions:
            self.positions = nn.Parameter(0.02 * torch.randn(sum(plan.sizes), width))
        if kinds is not None:
            self.log_sizes = nn.ModuleList(
                ScalarEmbedding(width, SIZE_FREQUENCIES, MAX_SIZE_FREQUENCY) for _ in range(NUM_SIZES)
            )
            self.places = nn.Linear(NUM_PLACES, width)
        for decoder in [*self.decoders, *(d[1] for d in self.edge_decoders)]:  # type: ignore[index]
            nn.init.zeros_(decoder.weight)
            nn.init.zeros_(decoder.bias)

    def use(self, plan: TokenPlan) -> None:
        """Take a plan for that of networks for which none is given."""
        self.plan, device = plan, self.kinds.device if hasattr(self, "kinds") else None
        self._buffers = dict(self._buffers)  # a copy that shares the weights has its own
        self.register_buffer("gather", plan.order.to(device=device), persistent=False)
        self.register_buffer("scatter", plan.scatter.to(device=device), persistent=False)

    def encode(self, x_t: Tensor, x_start: Tensor, plan: TokenPlan | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Two vectors (B, P) each to tokens of each group and chunk [(B, U, W)], and edges [(B, R, C, E)]."""
        order = self.gather if plan is None else plan.order.to(x_t.device)
        plan = plan or self.plan
        noised, start = (x[:, order].split(plan.lengths, dim=1) for x in (x_t, x_start))
        both = [
            torch.cat([a.unflatten(1, shape), b.unflatten(1, shape)], dim=-1)  # (B, ..., 2K)
            for a, b, shape in zip(noised, start, plan.shapes, strict=True)
        ]
        num = len(plan.parts)
        encoded = apply_linears([self.encoders[part.kind] for part in plan.parts], both[:num])  # (B, U, W)
        tokens: dict[int, Tensor] = {}
        for part, tensor in zip(plan.parts, encoded, strict=True):
            told = tensor + self.kinds[part.kind]
            tokens[part.place] = tokens[part.place] + told if part.place in tokens else told
        if hasattr(self, "places"):
            for group, told in enumerate(self.told(plan, x_t)):
                tokens[group] = tokens[group] + told
        found = [tokens[place] for place in range(len(plan.sizes))]
        if hasattr(self, "positions"):
            found = [t + p for t, p in zip(found, self.positions.split(list(plan.sizes)), strict=True)]
        return found, [self.edge_encoders[e.kind](x) for x, e in zip(both[num:], plan.edges, strict=True)]

    def told(self, plan: TokenPlan, like: Tensor) -> Tensor:
        """What the tokens of each group are told of its sizes and its place: (groups, W)."""
        features = plan.features.to(like.device)  # (groups, 7)
        sizes = [embed(features[:, i]) for i, embed in enumerate(self.log_sizes)]
        places: Tensor = self.places(features[:, NUM_SIZES:].to(self.places.weight.dtype))
        return places + torch.stack(sizes).sum(dim=0)

    def decode(self, tokens: list[Tensor], edges: list[Tensor], plan: TokenPlan | None = None) -> Tensor:
        """Tokens [(B, U, W)] and edges [(B, R, C, E)] to a vector (B, P)."""
        scatter = self.scatter if plan is None else plan.scatter.to(tokens[0].device)
        plan = plan or self.plan
        decoders = [self.decoders[part.kind] for part in plan.parts]
        parts = apply_linears(decoders, [tokens[part.place] for part in plan.parts])  # (B, U, K)
        parts += [self.edge_decoders[e.kind](x) for x, e in zip(edges, plan.edges, strict=True)]  # (B, R, C, K)
        return torch.cat([part.flatten(1) for part in parts], dim=1)[:, scatter]  # (B, P)
