"""Update rules by name. Importing this file imports no rule and no torch."""

from __future__ import annotations

import dataclasses
from typing import Any

from g_pt.files.choices import ChosenFrom
from g_pt.update_rules.base import UpdateRule

# name -> "module:Class", a dataclass that is an UpdateRule; every field is a setting with a default
RULES: dict[str, str] = {
    "sgd": "g_pt.update_rules.gradient:SGDRule",
    "momentum": "g_pt.update_rules.gradient:MomentumRule",
    "nesterov": "g_pt.update_rules.gradient:NesterovRule",
    "adam": "g_pt.update_rules.gradient:AdamRule",
    "adamw": "g_pt.update_rules.gradient:AdamWRule",
    "rmsprop": "g_pt.update_rules.gradient:RMSpropRule",
    "lars": "g_pt.update_rules.layerwise:LARSRule",
    "lamb": "g_pt.update_rules.layerwise:LAMBRule",
    "foof": "g_pt.update_rules.foof:Foof",
    "kfac": "g_pt.update_rules.kfac:Kfac",
    "mini-block-fisher": "g_pt.update_rules.mini_block_fisher:MiniBlockFisher",
    "m-fac": "g_pt.update_rules.m_fac:MFac",
    "lookahead": "g_pt.update_rules.lookahead:Lookahead",
    "dynamic-modes": "g_pt.update_rules.dynamic_modes:DynamicModes",
    "guard": "g_pt.update_rules.guard:Guard",
    "star": "g_pt.learned_optimizers.rules:StarRule",
    "g-pt": "g_pt.update_rules.prompted:SavedPromptRule",
}
CHOSEN_RULE = ChosenFrom(RULES, several="g_pt.update_rules.mixed:MixedRule")


def make_rule(name: str) -> Any:
    """Make a rule with its default settings; the error lists what exists."""
    return CHOSEN_RULE.make(name, "rule")


def rule_name(rule: Any) -> str:
    """Name under which a rule's class is registered, or "module:Class" of one that is not."""
    target = f"{type(rule).__module__}:{type(rule).__qualname__}"
    return next((name for name, registered in RULES.items() if registered == target), target)


def rule_settings(rule: Any) -> Any:
    """A rule as JSON: its name, and all settings that are set, rules inside it alike; a list of a mixture's rules."""
    if is_mixture(rule):
        return [rule_settings(one) for one in rule.rules]
    return {"name": rule_name(rule), **fields_of(rule)}


def is_mixture(rule: Any) -> bool:
    """Whether several rules were chosen together."""
    return rule_name(rule) == CHOSEN_RULE.several


def single_rules(rule: Any) -> tuple[Any, ...]:
    """The rules of a mixture, or the rule itself."""
    return tuple(rule.rules) if is_mixture(rule) else (rule,)


def fields_of(settings: Any) -> dict[str, Any]:
    """Fields of a dataclass as JSON."""
    return plain({field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)})


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back: lists for pairs, nothing for what is not set."""
    return {name: plain_value(value) for name, value in settings.items() if value is not None}


def plain_value(value: Any) -> Any:
    """One of them."""
    if dataclasses.is_dataclass(value):
        return rule_settings(value) if isinstance(value, UpdateRule) else fields_of(value)
    return plain(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
