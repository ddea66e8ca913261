"""Generative models of neural-network checkpoints, after G.pt (Peebles et al. 2022).

Names are imported when they are first used, so that `import g_pt` is fast and needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from g_pt.lazy_names import lazy_names

if TYPE_CHECKING:
    from g_pt.learned_optimizers.torch_optimizer import LearnedOptimizer as LearnedOptimizer
    from g_pt.model.normalization import ParameterNormalizer as ParameterNormalizer
    from g_pt.model.pipeline import ParameterUpdatePipeline as ParameterUpdatePipeline
    from g_pt.model.reference_scheduler import RespacedDDIMScheduler as RespacedDDIMScheduler
    from g_pt.model.reference_transformer import ReferenceTransformer as ReferenceTransformer
    from g_pt.model.transformer import ParameterTransformer as ParameterTransformer
    from g_pt.networks.metrics import Metric as Metric
    from g_pt.networks.parameters import ParameterLayout as ParameterLayout
    from g_pt.permutations import PermutationSpec as PermutationSpec
    from g_pt.tasks import get_task as get_task
    from g_pt.tasks import register_task as register_task
    from g_pt.tasks.base import Task as Task
    from g_pt.update_rules.torch_optimizer import UpdateOptimizer as UpdateOptimizer

__version__ = "0.1.0"

_HOMES = {
    "LearnedOptimizer": "g_pt.learned_optimizers.torch_optimizer",
    "Metric": "g_pt.networks.metrics",
    "ParameterLayout": "g_pt.networks.parameters",
    "ParameterNormalizer": "g_pt.model.normalization",
    "ParameterTransformer": "g_pt.model.transformer",
    "ParameterUpdatePipeline": "g_pt.model.pipeline",
    "PermutationSpec": "g_pt.permutations",
    "ReferenceTransformer": "g_pt.model.reference_transformer",
    "RespacedDDIMScheduler": "g_pt.model.reference_scheduler",
    "Task": "g_pt.tasks.base",
    "UpdateOptimizer": "g_pt.update_rules.torch_optimizer",
    "get_task": "g_pt.tasks",
    "register_task": "g_pt.tasks",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
