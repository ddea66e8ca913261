"""What a pipeline may be called with, as tensors: the habits of diffusers and PyTorch, or one clear sentence.

B = networks, P = parameters per network.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from g_pt.model.sampling import Generators
from g_pt.networks.metrics import Metric
from g_pt.networks.modules import module_params
from g_pt.networks.parameters import ParameterLayout
from g_pt.networks.training_facts import TrainingFacts

# a vector or several, a module, a state dict, or a list of them
Starts = Tensor | np.ndarray[Any, Any] | nn.Module | Mapping[str, Tensor] | Sequence[Any]


class PromptRangeWarning(UserWarning):
    """A prompt lies outside the metrics that the model was trained on."""


def start_params(starts: Starts, layout: ParameterLayout, device: torch.device) -> Tensor:
    """Start networks in any form as (B, P), raw.

    Raises:
        ValueError: they are of another form or architecture, none, or not finite.
    """
    params = torch.atleast_2d(to_vectors(starts, layout)).to(device, torch.float32)
    if params.dim() != 2 or params.shape[1] != layout.num_params:
        raise ValueError(
            f"this pipeline updates networks of {layout.num_params} parameters ({layout.describe()}), "
            f"got {tuple(params.shape)}"
        )
    for name, tensor in layout.unflatten(params).items():
        if not tensor.isfinite().all():
            raise ValueError(f"starting parameters must be finite, but {name!r} holds NaN or infinity")
    return params


def to_vectors(starts: Any, layout: ParameterLayout) -> Tensor:
    """(P,) or (B, P), as it comes."""
    if isinstance(starts, Tensor):
        vectors = starts
    elif isinstance(starts, nn.Module):
        vectors = module_params(starts, layout)
    elif isinstance(starts, Mapping) and all(isinstance(value, Tensor) for value in starts.values()):
        vectors = layout.flatten({name: tensor.float() for name, tensor in starts.items()})
    elif isinstance(starts, np.ndarray) and starts.dtype.kind in "fiu":
        vectors = torch.from_numpy(starts)
    elif isinstance(starts, list | tuple) and starts and not isinstance(starts[0], int | float):
        rows = [to_vectors(start, layout) for start in starts]
        if len({row.shape for row in rows}) > 1:
            raise ValueError(f"starting networks of a list must be alike, got {[tuple(row.shape) for row in rows]}")
        vectors = torch.stack(rows)
    elif isinstance(starts, list | tuple) and all(isinstance(value, int | float) for value in starts):
        vectors = torch.tensor(starts, dtype=torch.float32)
    else:
        raise ValueError(
            "starting_params must be a tensor or an array (B, P), a module, a state dict or a list of them, "
            f"got {type(starts).__name__}"
        )
    if not vectors.numel():
        raise ValueError(f"starting_params must hold at least one network, got {tuple(vectors.shape)}")
    return vectors


def metric_per_network(kind: str, values: Any, metric: Metric, num: int, device: torch.device) -> Tensor:
    """One number for all networks or one for each as (B,), raw.

    Raises:
        ValueError: it is no number, not finite, or of another number of networks.
    """
    try:
        numbers = torch.as_tensor(values, device=device, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{kind} {metric.name} must be one number or {num}, got {str(values)[:50]!r}") from error
    if numbers.shape not in ((), (1,), (num,)):
        raise ValueError(f"{kind} {metric.name} must be one number or {num}, got {tuple(numbers.shape)}")
    if not numbers.isfinite().all():
        raise ValueError(f"{kind} {metric.name} must be finite, got {numbers.tolist()}")
    return numbers.expand(num)


def to_generator(generator: Any, num: int) -> Generators | None:
    """A generator, a seed, or one of either for each network.

    Raises:
        ValueError: it is something else, or a list of another length.
    """
    if isinstance(generator, list | tuple):
        if len(generator) != num:
            raise ValueError(f"a list of generators must have one for each of {num} networks, got {len(generator)}")
        return [one_generator(each) for each in generator]
    return None if generator is None else one_generator(generator)


def one_generator(generator: Any) -> torch.Generator:
    """A generator, or one of its own for a seed."""
    if isinstance(generator, torch.Generator):
        return generator
    if isinstance(generator, int) and -(2**63) <= generator < 2**64:
        return torch.Generator().manual_seed(generator)
    raise ValueError(f"generator must be a torch.Generator, a seed or a list of them, got {str(generator)[:50]!r}")


def to_latents(latents: Any, shape: torch.Size) -> Tensor:
    """Noise to begin with, (B, P); refuses another shape."""
    latents = torch.as_tensor(latents)
    if latents.shape != shape:
        raise ValueError(f"latents must be {tuple(shape)}, one per network, got {tuple(latents.shape)}")
    return latents


def check_output_type(output_type: str) -> None:
    """Refuse an output that is neither tensors ("pt") nor arrays ("np")."""
    if output_type not in ("pt", "np"):
        raise ValueError(f'output_type must be "pt" or "np", got {output_type!r}')


def check_callback_tensors(names: Sequence[str], known: Sequence[str]) -> None:
    """Refuse tensors that a callback cannot be given."""
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"callback_on_step_end_tensor_inputs must be of {list(known)}, got {unknown}")


def check_range(prompt: Tensor, metric: Metric, facts: TrainingFacts) -> None:
    """Warn, two calls further up, of prompts (B,) outside the metrics seen in training."""
    if facts.prompt_range is None:
        return
    low, high = facts.prompt_range
    outside = prompt[(prompt < low) | (prompt > high)]
    if len(outside):
        warnings.warn(
            f"prompted {metric.name} {outside[0].item():.4g} lies outside the range seen in training, "
            f"{low:.4g} to {high:.4g} {metric.unit}{usual(facts)}: the result need not follow the prompt",
            PromptRangeWarning,
            stacklevel=4,  # this function, __call__, no_grad
        )


def usual(facts: TrainingFacts) -> str:
    """What trained networks of the size attain, in brackets."""
    return (
        ""
        if facts.attainable_range is None
        else f" (trained networks of this size attain {facts.attainable_range[0]:.4g})"
    )
