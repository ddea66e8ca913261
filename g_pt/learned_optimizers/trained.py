"""Learned optimizers as files of a few kilobytes: by name where they are bundled, else by path.

One safetensors file: a tensor `weights` (M,), and as metadata the optimizer's name, its settings and how it was
trained, as JSON.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g_pt.files.config import merge_choice
from g_pt.learned_optimizers.base import CHOSEN_OPTIMIZER
from g_pt.update_rules.base import LearnableOptimizer, Optimizer

if TYPE_CHECKING:
    from torch import Tensor

    from g_pt.update_rules.base import Tensors

BUNDLED = Path(__file__).parent.parent / "bundled" / "learned_optimizers"
KEY = "learned_optimizer"  # of the metadata


def bundled_optimizers() -> list[str]:
    """Names of the bundled weights."""
    return sorted(path.stem for path in BUNDLED.glob("*.safetensors"))


def weights_file(name: str) -> Path:
    """File of bundled weights, or the path itself.

    Raises:
        FileNotFoundError: there is neither.
    """
    path = BUNDLED / f"{name}.safetensors" if name in bundled_optimizers() else Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"{name!r} is neither a file nor a bundled learned optimizer; these are {bundled_optimizers()}"
        )
    return path


def save_trained(path: Path, learned: Any, weights: Tensor, training: Mapping[str, Any]) -> None:
    """Write weights (M,) with the settings of their optimizer, and what is known of their training, as JSON."""
    from g_pt.files.tensor import write_tensors

    own = {name: value for name, value in dataclasses.asdict(learned).items() if name != "compile"}  # how, not what
    facts = {"name": CHOSEN_OPTIMIZER.name_of(learned), **own, "training": dict(training)}
    write_tensors(path, {"weights": weights.detach().float().cpu().contiguous()}, {KEY: json.dumps(facts)})


def load_trained(name: str) -> tuple[LearnableOptimizer, Tensor, dict[str, Any]]:
    """Settings, weights (M,) and facts of the training, of a bundled name or a file.

    Raises:
        OSError: there is no such file.
        ValueError: it is no learned optimizer, or of a version with other settings, or has other weights.
    """
    from safetensors import safe_open

    from g_pt.files.tensor import read_tensor_entries

    path = weights_file(name)
    entries = read_tensor_entries(path)
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(KEY)
        if text is None or list(entries) != ["weights"]:
            raise ValueError(f"{path} must hold the weights of a learned optimizer and its settings, it does not")
        weights = file.get_tensor("weights")
    try:
        facts = json.loads(text)
        training = facts.pop("training")
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: the settings of its optimizer cannot be read ({error})") from error
    learned = merge_choice(CHOSEN_OPTIMIZER, CHOSEN_OPTIMIZER.make("star", "name"), facts, str(path))
    if tuple(weights.shape) != (learned.num_weights,) or not weights.isfinite().all():
        wanted = f"{learned.num_weights} finite weights"
        raise ValueError(f"{path} must hold {wanted} for its {facts['name']}, got {tuple(weights.shape)}")
    return learned, weights, training


@dataclass(frozen=True)
class TrainedOptimizer:
    """An optimizer whose weights are read when they are first needed."""

    weights: str = "star"
    """Bundled weights by name, or a file that train_learned_optimizer.py wrote."""

    @cached_property
    def optimizer(self) -> Optimizer[Any]:
        """The optimizer that these weights make; see `load_trained` for what raises."""
        learned, weights, _ = load_trained(self.weights)
        return learned.optimizer(weights)

    def init(self, params: Tensors) -> Any:
        """See `Optimizer`."""
        return self.optimizer.init(params)

    def update(
        self, params: Tensors, grads: Tensors, losses: Tensor, state: Any, rate: float | Tensor
    ) -> tuple[Tensors, Any]:
        """See `Optimizer`; a rate of 1 is the optimizer as it was trained."""
        return self.optimizer.update(params, grads, losses, state, rate)
