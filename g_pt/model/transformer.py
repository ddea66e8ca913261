"""The network: a transformer that predicts future parameters from noised ones, the start and the metrics.

B = batch, P = parameters per network, S = tokens, H = heads, W = width, U = units of a group, R / C = units of the
groups at the two ends of an edge tensor, E = edge width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F

# diffusers looks base-class names up in the module that defines a component: ModelMixin must stay a name here
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import Tensor, nn

from g_pt.model.edges import EdgeMixing
from g_pt.model.embeddings import ScalarEmbedding, embed_scalars
from g_pt.model.tokens import ParameterTokens
from g_pt.networks.metrics import Metric
from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec
from g_pt.permutations.plans import EdgePart, TokenPlan, kinds_of, plan_by_group, plan_by_kind
from g_pt.permutations.units import Tokenization, token_index
from g_pt.runtime.library_messages import hide_library_messages

hide_library_messages()


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, (B, H, S, d) each; eq. 1 of Vaswani et al. 2017."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    # On the CPU the fused kernel takes 9.6 times as long at 21 tokens in bf16, forward and backward, and 2.3 times at
    # 340 (torch 2.13, benchmarks/attention_speed.py).
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, H, S, S)
    # half precision is too coarse for a sum of exponentials; float64 stays float64
    return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(v.dtype) @ v


class TransformerBlock(nn.Module):
    """Pre-norm block of full self-attention and an MLP."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = int(mlp_ratio * width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, S, W) to (B, S, W)."""
        qkv = self.qkv(self.norm1(tokens))  # (B, S, 3W)
        # contiguous: one copy here, where the products of attention would make three
        q, k, v = rearrange(qkv, "b s (three h d) -> three b h s d", three=3, h=self.num_heads).contiguous()
        mixed = attention(q, k, v)  # (B, H, S, W/H)
        tokens = tokens + self.proj(rearrange(mixed, "b h s d -> b s (h d)"))  # (B, S, W)
        return tokens + self.mlp(self.norm2(tokens))  # (B, S, W)


def run_layer(
    mixing: nn.Module,
    block: nn.Module,
    tokens: Tensor,
    edges: list[Tensor],
    sizes: list[int],
    parts: Sequence[EdgePart],
) -> tuple[Tensor, list[Tensor]]:
    """Tokens (B, S, W) and edges [(B, R, C, E)], as `parts` tell them, after one layer; groups have the given sizes."""
    if edges:  # or there is nothing to take the tokens apart for
        groups, edges = mixing(list(tokens.split(sizes, dim=1)), edges, parts)
        tokens = torch.cat(groups, dim=1)
    return block(tokens), edges


class ParameterTransformer(ModelMixin, ConfigMixin):
    """Predicts the normalised future parameters.

    Tokens are the units of the network (`g_pt.model.tokens`) and four scalars: diffusion time, starting metric,
    prompted metric and their difference. Tensors between two groups of units are edges; before every block, edges
    and units exchange what they know. The decoder starts at zero and is added to the start parameters, so that the
    untrained model is the identity update.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        layout: list[list[Any]],
        permutations: dict[str, list[str | None]],
        metric: dict[str, Any],
        width: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        num_frequencies: int = 32,
        max_metric_frequency: float = 64.0,
        num_train_timesteps: int = 1000,
        tokenization: Tokenization = "units",
        edge_width: int = 32,
        chunk_size: int = 256,
        prediction_type: Literal["sample", "v_prediction", "flow_prediction"] = "sample",
        kinds: dict[str, int] | None = None,
    ) -> None:
        """Build the model; every argument is JSON and is saved as its configuration.

        Args:
            layout: `ParameterLayout.to_json()` of the networks.
            permutations: `PermutationSpec.to_json()` of the networks.
            metric: `Metric.to_json()` of the metric that conditions the model.
            width: W, of every token.
            num_layers: transformer blocks.
            num_heads: attention heads; divides the width.
            mlp_ratio: hidden width of the MLPs over W.
            num_frequencies: of the embedding of each scalar.
            max_metric_frequency: highest frequency of the metrics' embeddings, in radians per unit of the
                transformed metric.
            num_train_timesteps: diffusion times lie in [0, num_train_timesteps).
            tokenization: "units"; "kinds", for networks of any size whose tensors are of the same kinds; or "slices" or
                "chunks", which are not equivariant; see `g_pt.permutations.units.token_index`.
            edge_width: E, numbers kept for each pair of units.
            chunk_size: most parameters of a token that is not a unit.
            prediction_type: "sample": the output is x_0; "v_prediction": it is v (Salimans and Ho 2022, section 4);
                "flow_prediction": it is noise - x_0; the last two without the residual from the start.
            kinds: of tensors that a model for any size knows, with the numbers of one unit or edge in each; those of
                the layout where not given.
        """
        super().__init__()
        if width % num_heads:
            raise ValueError(f"num_heads must divide width, got {num_heads} and {width}")
        self.metric = Metric.from_json(metric)
        self.layout = ParameterLayout.from_json(layout)
        self.permutations = PermutationSpec.from_json(permutations)
        self.kinds: dict[str, int] | None = None
        if tokenization == "kinds":
            known = kinds or kinds_of(self.layout, self.permutations, chunk_size)
            self.kinds = dict(sorted(known.items()))  # JSON need not keep an order
            plan = self.plan_of(self.layout, self.permutations)
        else:
            plan = plan_by_group(token_index(self.layout, self.permutations, tokenization, chunk_size))
        self.tokens = ParameterTokens(plan, width, edge_width, positions=tokenization == "slices", kinds=self.kinds)
        # t / T in [0, 1) needs up to T radians per unit to tell neighbouring times apart
        frequencies = [float(num_train_timesteps)] + [max_metric_frequency] * 3
        self.scalars = nn.ModuleList(ScalarEmbedding(width, num_frequencies, f) for f in frequencies)
        self.scalar_kinds = nn.Parameter(0.02 * torch.randn(len(frequencies), width))
        self.blocks = nn.ModuleList(TransformerBlock(width, num_heads, mlp_ratio) for _ in range(num_layers))
        num_edges = len(self.tokens.edge_encoders)
        self.mixings = nn.ModuleList(EdgeMixing(num_edges, width, edge_width) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.gradient_checkpointing = False  # switched by diffusers' `enable_gradient_checkpointing`

    def plan_of(self, layout: ParameterLayout, permutations: PermutationSpec) -> TokenPlan:
        """The plan that `forward` takes for networks of another size; to be kept where many are updated.

        Raises:
            ValueError: the model is of one layout, or a tensor of a kind that it does not know.
        """
        if self.kinds is None:
            raise ValueError("this model is of one layout; only those of tokenization 'kinds' take others")
        return plan_by_kind(layout, permutations, self.kinds, self.config.chunk_size)

    def member(self, layout: ParameterLayout, permutations: PermutationSpec) -> ParameterTransformer:
        """The same model, with the same weights, of networks of another size; raises as `plan_of` does."""
        other = copy.copy(self)
        other.__dict__.pop("forward", None)  # Accelerate puts one there that calls this model, not the copy
        other._modules = {**self._modules, "tokens": copy.copy(self.tokens)}
        other.tokens.use(self.plan_of(layout, permutations))
        other.layout, other.permutations = layout, permutations
        other.register_to_config(layout=layout.to_json(), permutations=permutations.to_json(), kinds=self.kinds)
        return other

    def forward(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        x_start: Tensor,
        starting_metric: Tensor,
        prompted_metric: Tensor,
        plan: TokenPlan | None = None,
    ) -> Tensor:
        """Predict x_0, or v where the model was made for it.

        Args:
            x_t: (B, P), normalised, noised future parameters.
            timesteps: (B,) int64 in [0, num_train_timesteps).
            x_start: (B, P), normalised start parameters.
            starting_metric: (B,), raw, of the start.
            prompted_metric: (B,), raw, asked for.
            plan: of networks of another size, by `plan_of`; that of the configuration's layout where not given.

        Returns:
            (B, P), normalised.
        """
        start, prompt = self.metric.embedded(starting_metric), self.metric.embedded(prompted_metric)
        time = timesteps.to(start.dtype) / self.config.num_train_timesteps
        values = (time, start, prompt, prompt - start)
        scalars = embed_scalars(self.scalars, values)  # (B, 4, W)
        units, edges = self.tokens.encode(x_t, x_start, plan)  # [(B, U, W)], [(B, R, C, E)]
        parts = (plan or self.tokens.plan).edges
        groups = [*units, scalars + self.scalar_kinds]  # units, chunks and the four scalars
        sizes = [group.shape[1] for group in groups]
        tokens = torch.cat(groups, dim=1)  # (B, S, W)
        for mixing, block in zip(self.mixings, self.blocks, strict=True):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens, edges = self._gradient_checkpointing_func(run_layer, mixing, block, tokens, edges, sizes, parts)
            else:
                tokens, edges = run_layer(mixing, block, tokens, edges, sizes, parts)
        units = list(self.norm(tokens).split(sizes, dim=1))[:-1]
        update = self.tokens.decode(units, edges, plan)  # (B, P)
        return x_start + update if self.config.prediction_type == "sample" else update
