"""The reference's network: chunks of the flat vector as tokens, behind the same `forward` as `ParameterTransformer`.

Section 3 of Peebles et al. 2022. Weights of the reference load exactly (`g_pt.reference.checkpoints`); the function is
the same, the computation is not: tokens of equal size are encoded and decoded in one product, and the last block renews
only the tokens that are decoded.

B = batch, P = parameters per network, S = tokens, T = tokens that are decoded, W = width, F = frequencies.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

# diffusers looks base-class names up in the module that defines a component: ModelMixin must stay a name here
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from g_pt.model.reference_layers import ReferenceBlock, ScalarSinusoids, TokenDecoder, TokenEncoder, init_weights
from g_pt.networks.metrics import Metric
from g_pt.networks.parameters import ParameterLayout


class ReferenceTransformer(ModelMixin, ConfigMixin):
    """Predicts the normalised future parameters (or the noise) from chunks of vectors and raw scalars.

    Every token has its own encoder and position, so the model learns the symmetry of the units by augmentation. New
    models are better made of `ParameterTransformer`; this one is for the reference's weights and for comparisons.
    """

    @register_to_config
    def __init__(
        self,
        layout: list[list[Any]],
        metric: dict[str, Any],
        input_sizes: list[int],
        output_sizes: list[int],
        width: int = 256,
        num_layers: int = 12,
        num_heads: int = 16,
        encoder_depth: int = 1,
        decoder_depth: int = 1,
        num_frequencies: int = 128,
        max_frequency_log2: float = 14.0,
        absolute_metrics: bool = True,
        prediction_type: Literal["sample", "epsilon"] = "sample",
        attention_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        num_train_timesteps: int = 1000,
    ) -> None:
        """Build the model; every argument is JSON and is saved as its configuration.

        Args:
            layout: `ParameterLayout.to_json()` of the networks.
            metric: `Metric.to_json()` of the metric that conditions the model; it is embedded raw, whatever its
                transform.
            input_sizes: entries of each token, see `g_pt.reference.splits.token_sizes`.
            output_sizes: entries decoded from each of the first tokens.
            width: W, of every token.
            num_layers: transformer blocks.
            num_heads: attention heads; divides the width.
            encoder_depth: matrices that encode a token.
            decoder_depth: matrices that decode a token.
            num_frequencies: F, of the embedding of each scalar.
            max_frequency_log2: logarithm of the highest of them, in radians per unit of the scalar.
            absolute_metrics: whether prompted and starting metric are tokens, besides time and their difference.
            prediction_type: "sample": the output is x_0; "epsilon": the noise. The start is added in both.
            attention_dropout: of attention weights, in training.
            residual_dropout: of what attention and MLP add, in training.
            embedding_dropout: of the tokens before the first block, in training.
            num_train_timesteps: diffusion times lie in [0, num_train_timesteps).

        Raises:
            ValueError: sizes that do not fit the layout and the scalars, or a width that heads do not divide.
        """
        super().__init__()
        self.layout, self.metric = ParameterLayout.from_json(layout), Metric.from_json(metric)
        self.check_sizes()
        self.sinusoids = ScalarSinusoids(num_frequencies, max_frequency_log2)
        self.encoder = TokenEncoder(input_sizes, width, encoder_depth)
        self.norm_in = nn.LayerNorm(width)
        self.positions = nn.Parameter(torch.zeros(len(input_sizes), width))
        self.dropout = nn.Dropout(embedding_dropout)
        self.blocks = nn.ModuleList(
            ReferenceBlock(width, num_heads, attention_dropout, residual_dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.decoder = TokenDecoder(output_sizes, width, decoder_depth)
        self.apply(init_weights)

    def check_sizes(self) -> None:
        """Refuse a configuration whose parts do not fit each other."""
        config, num_params = self.config, self.layout.num_params
        if config.width % config.num_heads:
            raise ValueError(f"num_heads must divide width, got {config.num_heads} and {config.width}")
        if min(config.num_layers, config.encoder_depth, config.decoder_depth) < 1:
            raise ValueError("num_layers, encoder_depth and decoder_depth must be at least 1")
        if sum(config.output_sizes) != num_params:
            raise ValueError(f"output_sizes must sum to {num_params} parameters, got {sum(config.output_sizes)}")
        wanted = 2 * num_params + (4 if config.absolute_metrics else 2) * (2 * config.num_frequencies + 1)
        if sum(config.input_sizes) != wanted:
            raise ValueError(
                f"input_sizes must sum to {wanted} (noised and start parameters and scalars), got "
                f"{sum(config.input_sizes)}"
            )

    def forward(
        self, x_t: Tensor, timesteps: Tensor, x_start: Tensor, starting_metric: Tensor, prompted_metric: Tensor
    ) -> Tensor:
        """Predict x_0, or the noise where the model was made for it.

        Args:
            x_t: (B, P), normalised, noised future parameters.
            timesteps: (B,) int64 in [0, num_train_timesteps).
            x_start: (B, P), normalised start parameters.
            starting_metric: (B,), raw, of the start.
            prompted_metric: (B,), raw, asked for.

        Returns:
            (B, P), normalised.
        """
        # the difference in the metrics' own type: at 2^14 radians per unit a rounding to float32 shows
        scalars = [timesteps, prompted_metric - starting_metric]
        if self.config.absolute_metrics:
            scalars += [prompted_metric, starting_metric]
        embedded = [self.sinusoids(scalar).to(x_t.dtype) for scalar in scalars]  # (B, 2F+1) each
        encoded = self.encoder(torch.cat([x_t, x_start, *embedded], dim=1))  # (S, B, W)
        tokens = self.norm_in(encoded).transpose(0, 1) + self.positions  # (B, S, W)
        tokens = self.dropout(tokens)  # (B, S, W)
        num_decoded = len(self.config.output_sizes)
        *earlier, last = self.blocks
        for block in earlier:
            tokens = block(tokens)  # (B, S, W)
        decoded = self.norm(last(tokens, num_decoded))  # (B, T, W)
        return x_start + self.decoder(decoded.transpose(0, 1))  # (B, P)
