"""Between raw parameters and the roughly unit-scale vectors that diffusion works on.

P = parameters per network.
"""

from __future__ import annotations

from typing import Literal

import torch

# diffusers looks base-class names up in the module that defines a component: ModelMixin must stay a name here
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from g_pt.networks.parameters import ParameterLayout
from g_pt.runtime.library_messages import hide_library_messages

hide_library_messages()

NormalizationMode = Literal["global", "tensor"]


class ParameterNormalizer(ModelMixin, ConfigMixin):
    """x = (params - mean) / std with one mean and std per entry of the vector, saved with the model.

    Entries that a permutation can exchange must share their statistics, or normalising would break the
    symmetry; both modes of `fit` respect that.
    """

    @register_to_config
    def __init__(self, num_params: int) -> None:
        """An identity; `fit` sets the statistics."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_params))
        self.register_buffer("std", torch.ones(num_params))
        self.mean: Tensor
        self.std: Tensor

    @classmethod
    def fit(cls, params: Tensor, layout: ParameterLayout, mode: NormalizationMode = "global") -> ParameterNormalizer:
        """Estimate the statistics from raw parameters (rows, P) of training runs.

        Args:
            params: (rows, P), raw.
            layout: of the rows.
            mode: "global": one scale for everything, no centring, as in the reference; "tensor": mean and
                standard deviation of each tensor.

        Raises:
            ValueError: a standard deviation is not a positive number.
        """
        normalizer = cls(layout.num_params)
        if mode == "global":
            normalizer.std.fill_(params.std())
        elif mode == "tensor":
            for part in layout.slices.values():
                normalizer.mean[part] = params[:, part].mean()
                normalizer.std[part] = params[:, part].std()
        else:
            raise ValueError(f"normalization must be 'global' or 'tensor', got {mode!r}")
        for name, std in layout.unflatten(normalizer.std).items():
            if not (std.isfinite() & (std > 0)).all():
                raise ValueError(
                    f"{name!r} cannot be normalised: its standard deviation over {len(params)} rows is "
                    f"{std.flatten()[0]:.3g} (constant, or not finite); mode 'global' takes constant tensors"
                )
        return normalizer

    def normalize(self, params: Tensor) -> Tensor:
        """Raw parameters (..., P) to x (..., P)."""
        return (params - self.mean) / self.std

    def unnormalize(self, x: Tensor) -> Tensor:
        """x (..., P) to raw parameters (..., P)."""
        return x * self.std + self.mean
