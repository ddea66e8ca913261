"""Settings of a harvest. This file imports no torch, so that `--help` is fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

from g_pt.files.config import check_at_least, merge
from g_pt.update_rules.gradient import NesterovRule
from g_pt.update_rules.registry import CHOSEN_RULE, make_rule, plain, rule_settings
from rl_tasks.ppo_config import PPOConfig

Spacing = Literal["mixed", "log", "linear"]


MOST_AT_ONCE = 250  # networks of a shard, where nobody wants more

# settings of training by a loss, which tasks that train their own networks do not read
NOT_OF_POLICIES = ("rule", "batch_size", "mixed_precision")

# of files before there were rules, with their defaults
EARLIER_SETTINGS: dict[str, Any] = {
    "optimizer": "nesterov",
    "learning_rate": 0.1,
    "learning_rate_range": None,
    "momentum": 0.9,
    "weight_decay": 5e-4,
}


@dataclass(frozen=True)
class HarvestConfig:
    """How runs are trained and which of their checkpoints are kept."""

    task: str = "digits"
    """Task whose networks are trained: a name, path/to/file.py:Class or package.module:Class."""
    hidden: tuple[str, ...] = ()
    """Sizes to harvest of a family such as digits[64-*-10], num_runs of each: 16, 24,12 for two hidden layers, 8..64:5
    for five drawn log-uniformly between 8 and 64."""
    num_runs: int = 4000
    """Number of networks."""
    num_steps: int = 400
    """Steps of each run; of policies, iterations of PPO."""
    num_checkpoints: int = 60
    """Checkpoints kept of each run, the first (before training) and the last included."""
    spacing: Spacing = "mixed"
    """Which steps are kept: evenly spaced, evenly spaced in log(step), or half of each."""
    rule: Annotated[Any, CHOSEN_RULE] = field(default_factory=NesterovRule)
    """How networks are changed, an `UpdateRule` by name: optimizers, rules around them, g-pt (docs/update_rules.md)."""
    batch_size: int = 64
    """Training examples per step; networks of a shard share their order."""
    seed: int = 0
    """The same seed gives the same bytes."""
    runs_per_shard: int | None = None
    """Networks trained as one tensor program and written as one shard, which is what a kill loses. Where not given, up
    to 250, as many as train in about a minute, measured at the start and kept in dataset.json; give it for the same
    bytes on another machine."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the parameters on disk."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of products in training and in the metrics of checkpoints; parameters are always float32."""
    max_abs_param: float = 10.0
    """A run with a larger or non-finite parameter at any checkpoint is left out."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """Of policies, for which num_steps are iterations of PPO; rule, batch_size and mixed_precision are those of other
    tasks."""
    renamed_flags: ClassVar[Mapping[str, str]] = {
        "optimizer": "rule",
        "learning-rate": "rule.learning-rate",
        "learning-rate-range": "rule.learning-rate-range",
        "momentum": "rule.optimizer.momentum",
        "weight-decay": "rule.optimizer.weight-decay",
    }

    def __post_init__(self) -> None:
        check_at_least(self, num_runs=1, num_steps=1, batch_size=1, runs_per_shard=1)
        for name in ("seed", "max_abs_param"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 2 <= self.num_checkpoints <= self.num_steps + 1:
            raise ValueError(
                f"num_checkpoints must lie between 2 and num_steps + 1 = {self.num_steps + 1}, "
                f"got {self.num_checkpoints}"
            )

    def to_json(self, *, policies: bool = False) -> dict[str, Any]:
        """The settings as a dataset records them: lists for pairs, and nothing for what is not set or not used."""
        unused = ("hidden", *(NOT_OF_POLICIES if policies else ("ppo",)))
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in unused}
        if policies:
            settings["ppo"] = asdict(self.ppo)
        else:
            settings["rule"] = rule_settings(self.rule)
        return plain(settings)

    @staticmethod
    def current_settings(values: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with a rule, from those of files before there were rules: `optimizer`, `learning_rate` and so on.

        Settings without any of these come back as they are.

        Raises:
            ValueError: they stand beside a rule, or there is no such optimizer.
        """
        old = {name: values[name] for name in EARLIER_SETTINGS if name in values}
        rest = {name: value for name, value in values.items() if name not in old}
        if not old:
            return rest
        if "rule" in rest:
            raise ValueError(f"{sorted(old)} are settings of the rule: write them into 'rule', got both")
        settings = EARLIER_SETTINGS | old
        rule = make_rule(settings["optimizer"])
        optimizer = getattr(rule, "optimizer", None)
        decays = {name: settings[name] for name in ("momentum", "weight_decay") if hasattr(optimizer, name)}
        rates = {name: settings[name] for name in ("learning_rate", "learning_rate_range")}
        made = merge(rule, {"optimizer": decays, "schedule": "cosine", **rates}, "settings of an optimizer")
        return rest | {"rule": rule_settings(made)}

    def check_policies(self) -> None:
        """Refuse settings that do nothing for policies, so that nobody waits for them.

        Raises:
            ValueError: one of them is not at its default.
        """
        for name in NOT_OF_POLICIES:
            if getattr(self, name) != getattr(HarvestConfig(), name):
                raise ValueError(f"{name} is no setting of policies, got {getattr(self, name)!r}; theirs are in ppo")

    @property
    def at_once(self) -> int:
        """Networks of a shard; the most there are where that is not settled yet."""
        return self.runs_per_shard or MOST_AT_ONCE

    @property
    def num_shards(self) -> int:
        """Shards of the finished dataset; the last may hold fewer runs."""
        return -(-self.num_runs // self.at_once)


def dotted(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as flat ones: `{"rule.learning_rate": 0.1}`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def checkpoint_steps(num_steps: int, num_checkpoints: int, spacing: Spacing) -> list[int]:
    """Steps after which a checkpoint is kept: `num_checkpoints` different ones from 0 to `num_steps`.

    Candidates are taken from the spacing at finer and finer resolution until enough of them differ, since
    logarithmic spacing repeats small integers.
    """
    for resolution in range(2, 64 * (num_steps + num_checkpoints)):
        fractions = [i / (resolution - 1) for i in range(resolution)]
        steps = {0, num_steps}
        if spacing in ("linear", "mixed"):
            steps |= {round(num_steps * f) for f in fractions}
        if spacing in ("log", "mixed"):
            steps |= {round((num_steps + 1) ** f) - 1 for f in fractions}
        if len(steps) >= num_checkpoints:
            inner = sorted(steps - {0, num_steps})
            surplus = len(steps) - num_checkpoints
            # drop the surplus evenly, never the first or the last checkpoint
            drop = {inner[int((k + 0.5) * len(inner) / surplus)] for k in range(surplus)}
            return [0, *(s for s in inner if s not in drop), num_steps]
    raise ValueError(f"{num_steps} steps hold no {num_checkpoints} checkpoints with spacing {spacing!r}")
