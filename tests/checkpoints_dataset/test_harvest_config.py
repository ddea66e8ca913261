"""Which settings are refused and which steps are kept."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from itertools import pairwise

import pytest

from checkpoints_dataset.config import HarvestConfig, checkpoint_steps
from checkpoints_dataset.harvest import check_harvestable
from g_pt.command_line.parsing import parse
from g_pt.files.config import merge
from g_pt.tasks import get_task
from g_pt.update_rules.first_order import SGD, Adam, AdamW, RMSprop
from g_pt.update_rules.foof import Foof
from g_pt.update_rules.gradient import AdamRule, AdamWRule, NesterovRule, RMSpropRule, SGDRule
from g_pt.update_rules.lookahead import Lookahead
from g_pt.update_rules.m_fac import MFac

SPACINGS = ("mixed", "log", "linear")


def test_steps_are_as_many_as_wanted_rising_and_hold_first_and_last(subtests):
    for num_steps in [1, 2, 3, 7, 10, 31, 100, 400]:
        for spacing in SPACINGS:
            with subtests.test(num_steps=num_steps, spacing=spacing):
                wanted = {
                    n
                    for n in (2, 3, 4, 5, 11, 12, 60, num_steps // 2, num_steps, num_steps + 1)
                    if 2 <= n <= num_steps + 1
                }
                for n in wanted:
                    steps = checkpoint_steps(num_steps, n, spacing)
                    assert len(steps) == n
                    assert all(a < b for a, b in pairwise(steps))
                    assert (steps[0], steps[-1]) == (0, num_steps)


def test_one_more_checkpoint_than_steps_keeps_every_step(subtests):
    for spacing in SPACINGS:
        with subtests.test(spacing):
            assert checkpoint_steps(50, 51, spacing) == list(range(51))


def test_every_small_combination():
    for num_steps in range(1, 41):
        for n in range(2, num_steps + 2):
            for spacing in SPACINGS:
                steps = checkpoint_steps(num_steps, n, spacing)
                assert len(set(steps)) == n
                assert steps == sorted(steps)
                assert {0, num_steps} <= set(steps)


def test_log_is_densest_early_then_mixed_then_linear():
    early = {s: bisect_left(checkpoint_steps(400, 60, s), 40) for s in SPACINGS}  # kept among the first tenth
    assert early["linear"] == pytest.approx(6, abs=1)
    assert early["mixed"] > 1.5 * early["linear"]
    assert early["log"] > early["mixed"]


def test_linear_steps_are_evenly_spaced():
    steps = checkpoint_steps(400, 41, "linear")
    assert steps == list(range(0, 401, 10))


def test_mixed_keeps_gaps_of_the_late_part_short():
    steps = checkpoint_steps(400, 60, "mixed")
    assert max(b - a for a, b in pairwise(steps)) <= 3 * 400 / 60


IMPOSSIBLE = [
    *((name, 0) for name in ("num_runs", "num_steps", "batch_size", "runs_per_shard")),
    *((name, -1) for name in ("seed", "max_abs_param")),
    ("num_checkpoints", 1),
    ("num_checkpoints", 402),
]


def test_impossible_settings_are_refused_by_name(subtests):
    for name, value in IMPOSSIBLE:
        message = rf"^{name} must .*got {re.escape(str(value))}"
        with subtests.test(f"{name} = {value}"), pytest.raises(ValueError, match=message):
            HarvestConfig(**{name: value})


def test_num_shards_counts_an_incomplete_last_one():
    assert [HarvestConfig(num_runs=n, runs_per_shard=15).num_shards for n in (1, 15, 16, 40)] == [1, 1, 2, 3]


def test_recorded_settings_are_json_and_those_that_are_set():
    assert HarvestConfig().to_json()["rule"] == {
        "name": "nesterov",
        "optimizer": {"momentum": 0.9, "weight_decay": 5e-4},
        "learning_rate": 0.1,
        "schedule": "cosine",
    }
    recorded = HarvestConfig(rule=NesterovRule(learning_rate_range=(0.01, 0.3))).to_json()
    assert recorded["rule"]["learning_rate_range"] == [0.01, 0.3]
    assert json.loads(json.dumps(recorded)) == recorded
    assert merge(HarvestConfig(), recorded, "dataset.json").to_json() == recorded


BEFORE_RULES = {"learning_rate": 0.1, "momentum": 0.9, "optimizer": "nesterov", "weight_decay": 0.0005}


@pytest.mark.parametrize(
    ("earlier", "rule"),
    [
        (BEFORE_RULES, NesterovRule()),
        ({"learning_rate": 0.5}, NesterovRule(learning_rate=0.5)),
        ({"learning_rate_range": ["1e-2", 0.3]}, NesterovRule(learning_rate_range=(0.01, 0.3))),
        ({"optimizer": "sgd"}, SGDRule(SGD(0.9, 5e-4), 0.1)),
        (BEFORE_RULES | {"optimizer": "adam"}, AdamRule(Adam(5e-4), 0.1)),
        ({"optimizer": "adamw", "weight_decay": 0.1, "learning_rate": "1e-3"}, AdamWRule(AdamW(0.1), 1e-3)),
        ({"optimizer": "rmsprop", "momentum": 0}, RMSpropRule(RMSprop(0.0, 5e-4), 0.1)),
    ],
)
def test_settings_from_before_there_were_rules_are_read(earlier, rule):
    config = merge(HarvestConfig(), {"num_runs": 7, **earlier}, "file.yaml")
    assert config == HarvestConfig(num_runs=7, rule=rule)
    assert HarvestConfig.current_settings({"num_runs": 7, **earlier}) == {
        "num_runs": 7,
        "rule": config.to_json()["rule"],
    }


def test_rules_around_rules_are_recorded_with_their_names_and_read_back():
    flags = ["--rule", "lookahead", "--rule.alpha", "0.8", "--rule.inner", "foof", "--rule.inner.learning-rate", "2"]
    chosen = parse(HarvestConfig, flags, prog="gpt-harvest", description="")
    assert chosen.rule == Lookahead(Foof(learning_rate=2.0), alpha=0.8)
    recorded = chosen.to_json()
    assert (recorded["rule"]["name"], recorded["rule"]["inner"]["name"]) == ("lookahead", "foof")
    assert merge(HarvestConfig(), json.loads(json.dumps(recorded)), "dataset.json") == chosen


def test_the_state_of_a_rule_that_does_not_fit_is_refused_by_its_name():
    config = HarvestConfig(num_runs=10**6, runs_per_shard=10**6, rule=MFac(window=1000))
    with pytest.raises(ValueError, match="the state of rule 'm-fac' for 1,000,000 networks at once would take"):
        check_harvestable(get_task("digits"), config)


def test_settings_of_policies_have_no_rule():
    source = {"task": "cartpole", "ppo": {"learning_rate_range": [0.1, 0.2]}}
    assert HarvestConfig.current_settings(source) == source


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "lion"}, "there is no 'lion'.*adam.*nesterov"),
        ({"rule": "adam", "learning_rate": 0.1}, r"\['learning_rate'\] are settings of the rule"),
        ({"rule": {"name": "adam", "learning_rate": -1.0}}, "learning_rate must not be negative, got -1.0"),
        ({"rule": {"name": "sgd", "beta1": 0.9}}, "no setting 'beta1'"),
    ],
)
def test_wrong_rules_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        merge(HarvestConfig(), settings, "file.yaml")
