"""Which settings are refused and which steps are kept."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from itertools import pairwise

import pytest

from checkpoints_dataset.config import HarvestConfig, checkpoint_steps

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
    *((name, -1) for name in ("learning_rate", "momentum", "weight_decay", "seed", "max_abs_param")),
    ("learning_rate", float("nan")),
    ("num_checkpoints", 1),
    ("num_checkpoints", 402),
    *(("learning_rate_range", pair) for pair in [(0.0, 0.1), (-0.1, 0.1), (0.3, 0.01), (0.1, float("inf"))]),
    ("learning_rate_range", (float("nan"), 0.1)),
]


def test_impossible_settings_are_refused_by_name(subtests):
    for name, value in IMPOSSIBLE:
        message = rf"^{name} must .*got {re.escape(str(value))}"
        with subtests.test(f"{name} = {value}"), pytest.raises(ValueError, match=message):
            HarvestConfig(**{name: value})


def test_num_shards_counts_an_incomplete_last_one():
    assert [HarvestConfig(num_runs=n, runs_per_shard=15).num_shards for n in (1, 15, 16, 40)] == [1, 1, 2, 3]


def test_recorded_settings_are_json_and_those_that_are_set():
    assert "learning_rate_range" not in HarvestConfig().to_json()  # as before there was such a setting
    recorded = HarvestConfig(learning_rate_range=(0.01, 0.3)).to_json()
    assert recorded["learning_rate_range"] == [0.01, 0.3]
    assert json.loads(json.dumps(recorded)) == recorded
