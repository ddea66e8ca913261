"""Random search and ASHA: what they find, at which cost, and that a search goes on where it was."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from g_pt.tasks import get_task
from g_pt.tasks.quadratics import Quadratics
from g_pt.update_rules import tuning
from g_pt.update_rules.gradient import AdamRule, NesterovRule, SGDRule
from g_pt.update_rules.guard import Guard
from g_pt.update_rules.lookahead import Lookahead
from g_pt.update_rules.tuning import Budget, Trial, Trials, drawn_settings, next_jobs, search_space, tune

# one eigenvalue, no noise: after one step with rate r the loss is (1 - r)^2 of what it was
BOWL = Quadratics(spectrum=[1.0] * 4, noise=0.0)
RATES = {"learning_rate": (0.1, 10.0)}
RULE = SGDRule(schedule="constant")


def searched(rule=RULE, space=RATES, task=BOWL, seed=0, **budget) -> Trials:
    settings = {"num_trials": 9, "max_steps": 9, "num_networks": 2, "num_orders": 1} | budget
    return tune(rule, space, task, Budget(**settings), metric="loss", seed=seed)


def test_a_trial_has_the_loss_that_its_rate_gives() -> None:
    found = searched(min_steps=9)
    starts = BOWL.init(2, tuning.keyed_generator(0, 1))
    before = BOWL.evaluate(starts, "validation")["loss"].mean().item()
    for trial in found.all:
        rate = trial.settings["learning_rate"]
        assert trial.curve[9] == pytest.approx(before * (1 - rate) ** 18, rel=2e-2, abs=1e-9)
    assert found.best.settings["learning_rate"] == pytest.approx(1, rel=0.3)
    assert (found.steps_taken, {trial.reached for trial in found.all}) == (81, {9})


def test_a_third_goes_on_and_the_best_is_found_with_a_fraction_of_the_steps() -> None:
    asha, full = searched(), searched(min_steps=9)
    assert [sum(t.reached >= rung for t in asha.all) for rung in (1, 3, 9)] == [9, 3, 1]
    assert asha.steps_taken == 9 * 1 + 3 * 3 + 1 * 9
    assert asha.best.settings == full.best.settings
    rung = sorted(asha.all, key=lambda trial: trial.curve[1])[:3]
    assert {id(trial) for trial in rung} == {id(trial) for trial in asha.all if trial.reached >= 3}


def test_promotions_come_before_new_trials_where_few_run_at_once() -> None:
    budget = Budget(9, 9, at_once=3)
    trials = Trials([Trial({}) for _ in range(9)], BOWL.metric("loss"))
    assert next_jobs(trials, budget) == [(0, 1), (1, 1), (2, 1)]
    for number, value in enumerate((3.0, None, 2.0)):
        trials.all[number].curve, trials.all[number].reached = {1: value}, 1
    assert next_jobs(trials, budget) == [(2, 3), (3, 1), (4, 1)]
    asha, at_once = searched(at_once=2), searched()
    assert asha.best.settings == at_once.best.settings
    assert asha.steps_taken >= at_once.steps_taken


def test_the_top_is_reached_by_few_trials_too_and_infinity_is_the_worst() -> None:
    found = searched(space={"learning_rate": [0.5, 1e30]}, num_trials=2)
    assert found.best.settings == {"learning_rate": 0.5}
    assert found.best.reached == 9
    diverged = next(t for t in found.all if t.settings["learning_rate"] > 1)
    assert found.badness(diverged, 1) > 1e20
    nowhere = Trials([Trial({}, {9: None}, 9), Trial({}, {9: 5.0}, 9)], BOWL.metric("loss"))
    assert nowhere.best is nowhere.all[1]


def test_settings_of_every_kind_are_drawn_and_share_programs_where_they_can(monkeypatch) -> None:
    rule = Guard(Lookahead(AdamRule(schedule="constant")), NesterovRule(schedule="constant"), block=2)
    space = {
        "inner.inner.learning_rate": (1e-3, 1.0),
        "inner.alpha": (0.1, 0.9),
        "fallback.learning_rate": (1e-3, 1e-1),
        "fallback.optimizer.momentum": [0.0, 0.9],
    }
    programs: list[int] = []
    inner = tuning.follow
    monkeypatch.setattr(tuning, "follow", lambda *args, **kw: (programs.append(len(args[2])), inner(*args, **kw))[1])
    found = searched(rule, space, Quadratics(), num_trials=6, max_steps=2, min_steps=2)
    assert sorted(programs) == [6, 6]  # two values of momentum, 3 trials of 2 networks each
    alone = tune(
        tuning.with_settings(rule, found.best.settings), {"inner.alpha": [found.best.settings["inner.alpha"]]},
        Quadratics(), Budget(1, 2, 2, num_networks=2, num_orders=1), metric="loss", seed=0,
    )  # fmt: skip
    assert alone.best.curve[2] == pytest.approx(found.best.curve[2], rel=1e-4)
    assert search_space(rule) == {
        "inner.inner.learning_rate": AdamRule.tuned["learning_rate"],
        "fallback.learning_rate": NesterovRule.tuned["learning_rate"],
    }


def test_ranges_are_drawn_evenly_in_the_logarithm() -> None:
    rates = sorted(s["a"] for s in drawn_settings({"a": (1e-4, 1.0)}, 100, torch.Generator().manual_seed(0)))
    for part, rate in enumerate(rates):
        assert part / 100 <= (math.log10(rate) + 4) / 4 <= (part + 1) / 100
    choices = [s["a"] for s in drawn_settings({"a": [1, 2]}, 10, torch.Generator().manual_seed(0))]
    assert (choices.count(1), choices.count(2)) == (5, 5)


def test_a_search_goes_on_where_its_log_ends(tmp_path: Path, monkeypatch) -> None:
    log, budget = tmp_path / "trials.jsonl", Budget(9, 9, num_networks=2, num_orders=1)
    wanted = tune(RULE, RATES, BOWL, budget, metric="loss", seed=3, log=log, measured=[2])
    lines = log.read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert (entries[0]["seed"], entries[0]["rule"]["name"], len(entries)) == (3, "sgd", 1 + 9 + 3 + 1)
    assert entries[-1] == {
        "trial": wanted.all.index(wanted.best), "settings": wanted.best.settings, "rung": 9,
        "curve": {str(step): value for step, value in wanted.best.curve.items() if step in (2, 9)},
    }  # fmt: skip
    steps: list[int] = []
    inner = tuning.follow
    monkeypatch.setattr(tuning, "follow", lambda *args, **kw: (steps.append(kw["steps"][-1]), inner(*args, **kw))[1])
    log.write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:20])  # killed while it wrote
    assert tune(RULE, RATES, BOWL, budget, metric="loss", seed=3, log=log, measured=[2]) == wanted
    assert steps == [3, 9]
    with pytest.raises(ValueError, match="must be the log of this search"):
        tune(RULE, RATES, BOWL, budget, metric="loss", seed=4, log=log)
    foreign = tmp_path / "notes.txt"
    foreign.write_text("mine")
    with pytest.raises(ValueError, match="must be the log of this search"):
        tune(RULE, RATES, BOWL, budget, metric="loss", seed=3, log=foreign)
    assert foreign.read_text() == "mine"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: searched(space={"momentum": [0.0]}), "no setting 'momentum'; settings here are .*learning_rate"),
        (lambda: searched(space={"optimizer.momenta": [0.0]}), "no setting 'momenta'.* Did you mean 'momentum'"),
        (lambda: Budget(3, 2, 4), "max_steps must be at least 4, got 2"),
        (lambda: Budget(3, 9, eta=1), "eta must be at least 2, got 1"),
    ],
)
def test_what_cannot_be_searched_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_on_digits_a_quarter_of_the_steps_finds_settings_as_good() -> None:
    rule, task = NesterovRule(), get_task("digits")
    space = {
        "learning_rate": (1e-3, 1.0), "optimizer.momentum": [0.0, 0.9], "optimizer.weight_decay": [0.0, 1e-3],
    }  # fmt: skip
    asha, full = (
        tune(rule, space, task, Budget(24, 270, low, num_networks=4, num_orders=1), metric="loss", seed=0)
        for low in (10, 270)
    )
    assert asha.steps_taken <= full.steps_taken / 4
    assert asha.best.curve[270] <= 1.15 * full.best.curve[270]
