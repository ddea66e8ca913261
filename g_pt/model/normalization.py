"""Between raw parameters and the roughly unit-scale vectors that diffusion works on.

P = parameters per network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

# diffusers looks base-class names up in the module that defines a component: ModelMixin must stay a name here
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations.plans import TokenPlan
from g_pt.runtime.library_messages import hide_library_messages

hide_library_messages()

NUM_LAW = 3  # numbers of the law of scale

NormalizationMode = Literal["global", "tensor"]


class ParameterNormalizer(ModelMixin, ConfigMixin):
    """x = (params - mean) / std with one mean and std per entry of the vector, saved with the model.

    Entries that a permutation can exchange must share their statistics, or normalising would break the
    symmetry; both modes of `fit` respect that.
    """

    @register_to_config
    def __init__(self, num_params: int, scale_law: bool = False) -> None:
        """An identity; `fit` sets the statistics. With `scale_law`, it serves networks of other sizes by `member`."""
        super().__init__()
        if scale_law:
            self.register_buffer("law", torch.zeros(NUM_LAW))
            self.law: Tensor
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

    @classmethod
    def fit_sizes(cls, default: TokenPlan, plans: Sequence[TokenPlan], stds: Tensor) -> ParameterNormalizer:
        """Fit one scale for all parameters of a network as a function of its size: log std is linear in it.

        The features are 1, the mean log width and the number of layers; what few sizes do not tell stays 0.

        Args:
            default: of the networks that the normalizer serves by itself.
            plans: of each size measured.
            stds: (sizes,) standard deviations over runs and parameters.
        """
        normalizer = cls(len(default.order), scale_law=True)
        features = torch.stack([law_features(plan) for plan in plans]).double()  # (sizes, 3)
        ridge = 1e-3 * torch.eye(NUM_LAW, dtype=torch.float64)
        ridge[0, 0] = 0
        matrix = features.T @ features + ridge
        normalizer.law.copy_(torch.linalg.solve(matrix, features.T @ stds.double().log()))
        normalizer.std.fill_(normalizer.scale_of(default))
        return normalizer

    def rescale(self, std: float) -> None:
        """Multiply the law by a factor, so that networks of the default size have a given scale."""
        self.law[0] += math.log(std / self.std[0].item())
        self.std.fill_(std)

    def scale_of(self, plan: TokenPlan) -> float:
        """The scale of networks of a size."""
        return math.exp(float(self.law.cpu() @ law_features(plan)))

    def member(self, plan: TokenPlan) -> ParameterNormalizer:
        """The normalizer of networks of another size.

        Raises:
            ValueError: this one is of one size.
        """
        if not self.config.scale_law:
            raise ValueError("this normalizer is of networks of one size: it has no law of their scale")
        other = ParameterNormalizer(len(plan.order))
        other.std.fill_(self.scale_of(plan))
        return other.to(self.std.device)

    def normalize(self, params: Tensor) -> Tensor:
        """Raw parameters (..., P) to x (..., P)."""
        return (params - self.mean) / self.std

    def unnormalize(self, x: Tensor) -> Tensor:
        """x (..., P) to raw parameters (..., P)."""
        return x * self.std + self.mean


def law_features(plan: TokenPlan) -> Tensor:
    """(3,) on which the scale of a network's parameters depends."""
    return torch.tensor([1.0, plan.log_width, plan.num_groups - 1.0])
