"""What rules around another rule share. Importing this file imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Self

from g_pt.update_rules.base import DrawnRule
from g_pt.update_rules.gradient import AdamRule
from g_pt.update_rules.registry import CHOSEN_RULE

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class WrappedRule:
    """A rule around another one, which may be of any kind."""

    inner: Annotated[Any, CHOSEN_RULE] = field(default_factory=AdamRule)
    """Rule that takes the steps, an `UpdateRule` by name."""

    def draw(self, num_networks: int, generator: torch.Generator) -> tuple[Self, list[dict[str, Any]]]:
        """See `DrawnRule`: what the inner rule draws."""
        if not isinstance(self.inner, DrawnRule):
            return self, [{} for _ in range(num_networks)]
        inner, drawn = self.inner.draw(num_networks, generator)
        return replace(self, inner=inner), drawn
