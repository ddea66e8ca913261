"""What the report says about copies, about fresh networks and about samplers that ignore their start."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from g_pt.evaluation.baselines import COMPETITORS
from g_pt.evaluation.novelty.nearest import NetworkDistance
from g_pt.evaluation.novelty.start_identity import start_identity
from g_pt.evaluation.novelty.yardstick import accuracy_bar
from g_pt.evaluation.runs import ReferenceRuns, RunSet
from g_pt.networks.training_facts import TrainingFacts
from g_pt.report.novelty import FRESH, SAMPLES, TRAINING, halves, measure_novelty
from g_pt.report.section import Subject
from g_pt.report.start_use import measure_start_use
from g_pt.tasks import get_task


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def run_set(task, num, seed):
    """Networks that are scaled inits, which is enough for distances."""
    starts = task.init(num, generator(seed))
    ends = 2 * starts
    metric = next(iter(task.metrics))
    trajectories = torch.stack([starts, 1.5 * starts, ends], dim=1)
    return RunSet(
        starts=starts,
        ends=ends,
        end_metric=task.evaluate(ends, "validation")[metric],
        checkpoints=trajectories.flatten(0, 1)[:50],
        checkpoint_metric=torch.zeros(50),
        trajectories=trajectories,
        steps=torch.tensor([0, 5, 10]),
        layout=task.layout,
    )


class Sampler:
    """A pipeline that answers by a function of starts, prompts and starting metrics."""

    def __init__(self, task, answer):
        self.task, self.answer = task, answer
        self.metric, self.layout = next(iter(task.metrics.values())), task.layout
        self.facts = TrainingFacts(attainable_range=(0.1, 2.3))

    def __call__(self, starts, prompt, metric=None, *, num_inference_steps=None, generator=None):
        return SimpleNamespace(params=self.answer(starts, prompt, metric, generator))


def subject(task, answer, num=24, held_out=True):
    runs = ReferenceRuns(run_set(task, 80, 1), run_set(task, 60, 2)) if held_out else None
    return Subject(Sampler(task, answer), "sampler", num_networks=num, num_prompts=4, runs=runs)


@pytest.fixture(scope="module")
def copies(digits):
    """The section on a sampler that gives training runs back, reordered and with a little noise."""
    ends = run_set(digits, 80, 1).ends

    def answer(starts, prompt, metric, random):
        rows = torch.randint(len(ends), (len(starts),), generator=random)
        orders = digits.permutations.draw(digits.layout, len(starts), random)
        noisy = ends[rows] + 0.01 * torch.randn(starts.shape, generator=random)
        return digits.permutations.permute(noisy, digits.layout, orders)

    return measure_novelty(subject(digits, answer))


def test_a_sampler_of_copies_is_found_out(copies):
    row = copies.facts["rows"][SAMPLES]
    assert row["networks"] == 24
    assert row["nearest_run"]["mean"] == pytest.approx(0.01 * 1210**0.5, rel=0.1)
    assert row["copying_score"]["mean"] < -5
    assert row["novel"]["mean"] == row["accurate_and_novel"]["mean"] == 0
    assert row["overlap_nearest"]["mean"] > 0.9
    assert row["dispersion"]["mean"] == pytest.approx(1, abs=0.1)


def test_fresh_networks_are_as_new_as_training_runs_are_to_each_other(copies):
    fresh, training = (copies.facts["rows"][name] for name in (FRESH, TRAINING))
    assert abs(fresh["copying_score"]["mean"]) < 2.5
    assert 0.2 < fresh["novel"]["mean"] < 0.8
    assert training["novel"]["mean"] == 0.5
    assert fresh["dispersion_matched"]["mean"] == pytest.approx(1, abs=0.05)
    assert fresh["accurate"]["mean"] > 0.3  # within 4 points of the mean of their like
    assert copies.facts["training_pairs"]["mean"] > copies.facts["novel_from"]


def test_every_competitor_has_its_rows_and_every_figure_its_interval(copies, tmp_path):
    rows = copies.facts["rows"]
    for competitor in COMPETITORS.values():
        names = [f"{competitor.name}, {o}" for o in ("raw", "aligned")] if competitor.averages else [competitor.name]
        assert set(names) <= set(rows)
    for row in rows.values():
        for name, value in row.items():
            assert name == "networks" or value is None or value["low"] <= value["mean"] <= value["high"], name
    table, by_prompt = copies.tables
    assert [line["prompt"] for line in copies.facts["prompts"]] == pytest.approx(
        [0.1 * 23 ** (0.05 * k) for k in range(5)], rel=1e-4
    )
    assert {len(line) for line in by_prompt.rows} == {len(table.columns)}
    assert {len(line) for line in table.rows} == {len(table.columns)}
    assert len(table.rows) == len(rows) == 3 + sum(1 + c.averages for c in COMPETITORS.values())
    json.dumps(copies.facts)
    copies.figures["novelty.png"](tmp_path / "novelty.png")
    assert (tmp_path / "novelty.png").stat().st_size > 5000


def test_copies_of_runs_have_distance_zero_and_aligned_averages_vary_less(copies):
    rows = copies.facts["rows"]
    assert rows["nearest start"]["nearest_run"]["high"] == 0
    assert rows["nearest start"]["overlap_nearest"]["mean"] == 1
    assert rows["noise 0.1"]["nearest_run"]["mean"] < rows["noise 0.2"]["nearest_run"]["mean"]
    assert rows["average of 16, aligned"]["dispersion_matched"]["mean"] < 0.5


def test_without_training_runs_there_is_no_section(digits):
    assert measure_novelty(subject(digits, lambda s, p, m, g: s, held_out=False)) is None


def test_tasks_without_mistakes_have_distances_and_a_bar_of_their_own():
    task = get_task("regression")
    runs = ReferenceRuns(run_set(task, 30, 1), run_set(task, 12, 2))
    sampler = Sampler(task, lambda starts, p, m, g: 2 * starts)
    section = measure_novelty(Subject(sampler, "sampler", num_networks=3, num_prompts=2, runs=runs))
    row = section.facts["rows"][SAMPLES]
    assert row["overlap_most"] is None
    assert section.facts["accurate"]["metric"] == "loss"
    assert "95% of the way" in section.facts["accurate"]["rule"]
    assert "errors shared" not in section.tables[0].columns
    assert section.facts["exact_distances"] is (len(task.permutations.group_sizes(task.layout)) == 1)


def test_the_bar_of_digits_is_four_points_above_the_runs(digits):
    bar = accuracy_bar(digits, digits.metric("loss"), torch.tensor([90.0, 90.0]), torch.tensor([2.0, 4.0]))
    assert (bar.metric.name, bar.threshold) == ("error", 7.0)
    assert bar.passed(torch.tensor([6.9, 7.0, 7.1])).tolist() == [True, True, False]
    task = get_task("cartpole")
    bar = accuracy_bar(task, task.metric("return"), torch.tensor([20.0]), torch.tensor([500.0]))
    assert bar.threshold == pytest.approx(476)
    assert bar.passed(torch.tensor([470.0, 480.0])).tolist() == [False, True]


def test_held_out_runs_are_halved_and_too_few_are_refused(digits):
    runs = run_set(digits, 10, 0)
    first, second = halves(runs)
    assert torch.equal(torch.cat([first.ends, second.ends]), runs.ends)
    few = replace(runs, starts=runs.starts[:3], ends=runs.ends[:3], end_metric=runs.end_metric[:3])
    with pytest.raises(ValueError, match="at least 4 held-out runs, got 3"):
        halves(few)


def test_a_sampler_that_ignores_its_start_is_seen(digits):
    pool = 2 * digits.init(400, generator(9))

    def answer(starts, prompt, metric, random):
        return pool[torch.randint(len(pool), (len(starts),), generator=random)]

    section = measure_start_use(subject(digits, answer, num=40))
    for name in ("G.pt, fresh inits", "G.pt, held-out checkpoints"):
        found = section.facts["identity"][name]
        assert found["identified"]["mean"] < 0.15
        assert found["own_over_other"]["low"] < 1 < found["own_over_other"]["high"]
    fresh = section.facts["starts"]["fresh inits"]
    assert fresh["own"] == fresh["shuffled"]
    training = section.facts["identity"]["training, held-out runs"]
    assert training["identified"]["mean"] == training["identified_matched"]["mean"] == 1
    json.dumps(section.facts)


def test_a_sampler_that_stays_at_its_start_is_seen(digits):
    section = measure_start_use(subject(digits, lambda starts, p, m, g: starts, num=12))
    found = section.facts["identity"]["G.pt, fresh inits"]
    assert found["identified"]["mean"] == found["identified_matched"]["mean"] == 1
    assert found["own"]["mean"] == found["own_matched"]["mean"] == 0
    assert found["other"]["mean"] >= found["other_matched"]["mean"] > 1
    # with another's parameters it ends at the other's start
    shuffled = section.facts["starts"]["fresh inits"]["own_start_to_shuffled_result"]
    assert shuffled["mean"] == pytest.approx(found["other_matched"]["mean"], rel=0.05)


def test_parameters_of_another_network_break_a_sampler_that_needs_its_own(digits):
    """A sampler that believes the metric it is told misses its prompts when the parameters have another metric."""
    task = SimpleNamespace(
        layout=digits.layout,
        permutations=digits.permutations,
        metrics=digits.metrics,
        init=lambda num, random: 0.5 + torch.rand(num, 1210, generator=random),
        evaluate=lambda params, split="test": {"loss": params[:, 0], "error": 50 * params[:, 0]},
    )

    def answer(starts, prompt, metric, random):
        moved = starts.clone()
        moved[:, 0] += prompt - metric  # the right step from a network of that metric
        return moved

    sampler = Sampler(task, answer)
    section = measure_start_use(Subject(sampler, "sampler", num_networks=30, num_prompts=5))
    fresh = section.facts["starts"]["fresh inits"]
    assert fresh["own"]["alignment"]["mean"] == pytest.approx(1)
    assert fresh["own"]["gap"]["mean"] == pytest.approx(0, abs=1e-4)
    assert fresh["shuffled"]["alignment"]["high"] < 0.95


def test_identity_needs_a_result_for_every_start(digits):
    distance = NetworkDistance(digits.layout, digits.permutations)
    starts = digits.init(3, generator())
    with pytest.raises(ValueError, match="as many results as starts"):
        start_identity(starts, starts[:2], distance, generator())
