"""Sections of the report on stand-ins whose answers are known."""

import json
import math
from dataclasses import replace
from itertools import islice

import pytest
import torch
from builders import build_pipeline
from report_subjects import Bowl, halfway, noisy, perfect, reference_runs, stubborn, subject

from g_pt.networks.training_facts import AlignmentFacts, TrainedRuns
from g_pt.report import courses
from g_pt.report.contents import SECTIONS, load_section
from g_pt.report.courses import measured_steps, run_rival
from g_pt.report.document import report_json, write_document
from g_pt.report.inits import measure_inits
from g_pt.report.landscape import measure_landscape, plane
from g_pt.report.latent_walk import measure_latent_walk
from g_pt.report.optimizers import measure_optimizers
from g_pt.report.prompting import measure_prompting
from g_pt.report.random_search import measure_random_search
from g_pt.report.recursion import measure_recursion
from g_pt.report.samples import measure_samples
from g_pt.report.section import Section, Subject, Table
from g_pt.update_rules.gradient import SGDRule
from g_pt.update_rules.registry import RULES, make_rule


def test_a_perfect_model_stays_perfect_through_ten_updates() -> None:
    facts = measure_recursion(subject(perfect)).facts
    assert facts["prompts"] == pytest.approx([0.5, 1, 1.5, 2, 2.5])
    assert facts["best_prompt"] == pytest.approx(0.5)
    assert list(facts["updates"]) == ["1", "2", "5", "10"]
    for found in facts["updates"].values():
        assert found["alignment"]["mean"] == pytest.approx(1, abs=1e-5)
        assert found["rank_correlation"]["mean"] == pytest.approx(1)
        assert found["test_loss"]["mean"] == pytest.approx(0.5, abs=1e-4)
        assert found["alignment"]["networks"] == 12


def test_a_stubborn_model_has_at_most_zero() -> None:
    facts = measure_recursion(subject(stubborn)).facts
    for found in facts["updates"].values():
        assert found["alignment"]["high"] <= 0
        assert found["rank_correlation"]["mean"] == pytest.approx(0, abs=0.1)


def test_the_second_update_begins_where_the_first_ended() -> None:
    tested = subject(halfway)
    facts = measure_recursion(tested).facts
    starts = tested.task.init(12, tested.generator("recursion"))
    before = tested.task.evaluate(starts)["loss"].mean().item()
    for number in (1, 2, 5, 10):
        found = facts["updates"][str(number)]["test_loss"]["mean"]
        assert found == pytest.approx(0.5 + (before - 0.5) / 2**number, abs=1e-3)


def test_prompting_reports_every_network() -> None:
    section = measure_prompting(subject(perfect))
    assert section.facts["prompt_alignment"]["attainable"]["mean"] == pytest.approx(1, abs=1e-6)
    assert section.facts["rank_correlation"]["full"]["mean"] == pytest.approx(1)
    assert len(section.facts["curve"]["full"]["alignment_per_network"]) == 12
    assert "12 unseen inits" in section.tables[0].title


def test_one_update_may_be_for_the_models_own_best_prompt_below_the_range() -> None:
    tested = subject(perfect)
    tested.pipeline.facts = replace(tested.pipeline.facts, alignment=AlignmentFacts(9, "exact", best_prompt=0.3))
    facts = measure_prompting(tested).facts
    assert facts["one_update"]["prompt"] == pytest.approx(0.3)
    assert facts["one_update"]["test_loss"]["mean"] == pytest.approx(0.3, abs=1e-4)
    assert facts["curve"]["attainable"]["prompted"] == pytest.approx([0.5, 1, 1.5, 2, 2.5])
    assert tested.best_prompt == pytest.approx(0.3)


def test_one_update_is_compared_with_runs_and_with_what_they_answer_together(digits) -> None:
    runs = TrainedRuns({"test_loss": 9.0, "test_error": 1.0, "test_ece": 5.0}, 30)
    pipeline = build_pipeline(digits)
    facts = replace(pipeline.facts, trained_runs=runs, best_run=replace(runs, num_runs=40), mean_answer=None)
    pipeline.register_to_config(training=facts.to_json())
    section = measure_prompting(Subject(pipeline, "untrained", num_networks=3, num_prompts=2))
    rows = section.facts["beside_runs"]
    starts = digits.init(3, torch.Generator().manual_seed(0))  # the untrained model leaves them as they are
    together = digits.forward(digits.layout.unflatten(starts), digits.splits["test"].inputs).softmax(dim=1).mean(dim=0)
    labels = digits.splits["test"].labels
    assert rows["one update"]["loss"] == pytest.approx(digits.evaluate(starts)["loss"].mean().item(), rel=1e-5)
    loss = -together.gather(0, labels[None]).log().mean().item()
    assert rows["the mean answer of 3 updates"]["loss"] == pytest.approx(loss, rel=1e-5)
    note = section.notes[-1]
    assert "better than a run, mean of 30 held out (9), the best run of 40 (9)" in note.split("error")[0]
    assert "not better than a run, mean of 30 held out (1)" in note.split("error")[1]
    assert "the mean answer" not in note
    cells = {row[0]: row for row in section.tables[1].rows}
    assert cells["the best run of 40"] == ("the best run of 40", "9", "1", "5", "-")
    assert "[" in cells["before"][1]


def test_the_best_prompt_is_that_of_the_best_metric_and_is_sampled_once() -> None:
    drawn: list[int] = []

    def contrary(prompt: torch.Tensor, before: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        drawn.append(len(prompt))
        return 3 - prompt

    assert subject(perfect).best_prompt == pytest.approx(0.5)
    tested = subject(contrary)
    assert tested.best_prompt == pytest.approx(2.5)
    assert tested.best_prompt == tested.best_prompt
    assert sum(drawn) == 12 * 5


def test_the_spread_of_samples_and_the_best_of_them() -> None:
    facts = measure_samples(subject(noisy, num_networks=64)).facts
    for spread in facts["spread"]:
        assert spread["within"]["mean"] == pytest.approx(0.1, rel=0.15)
        assert spread["mean"]["mean"] == pytest.approx(spread["prompt"], abs=0.03)
    best = [facts["best_of"][str(size)]["test_loss"]["mean"] for size in (1, 2, 4, 8, 16)]
    # expected smallest of 1, 2, 4, 8, 16 normal numbers, in standard deviations
    expected = [facts["best_of"]["prompt"] - 0.1 * d for d in (0, 0.5642, 1.0294, 1.4236, 1.7660)]
    assert best == pytest.approx(expected, abs=0.02)


def test_every_kind_of_start_is_prompted_once_and_ten_times() -> None:
    fresh = measure_inits(subject(halfway))
    assert "trained" not in " ".join(fresh.facts["starts"])
    assert "--dataset" in fresh.notes[-1]
    starts = measure_inits(subject(halfway, runs=reference_runs())).facts["starts"]
    assert {"held-out runs, trained", "trained, 0 reset", "trained, 2 reset"} <= set(starts)
    assert starts["held-out runs, trained"]["test_loss"]["mean"] == pytest.approx(0.6, abs=1e-4)
    for found in starts.values():
        once, often = (found["updates"][n]["test_loss"]["mean"] for n in ("1", "10"))
        assert once == pytest.approx((found["prompt"] + found["test_loss"]["mean"]) / 2, rel=1e-3)
        assert often == pytest.approx(found["prompt"], rel=0.2)
        assert found["updates"]["10"]["alignment"]["networks"] == found["test_loss"]["networks"]


def test_every_rule_is_tuned_for_its_number_of_steps_and_counted() -> None:
    # the gradient of the bowl is the network itself: SGD with rate 1 is there after one step
    section = measure_optimizers(subject(perfect))
    assert section is not None
    facts = section.facts
    found = facts["optimizers"]["SGD"]
    assert found["settings"][0]["learning_rate"] == pytest.approx(1, rel=0.3)
    assert found["test_loss"][0]["mean"] < 0.2
    assert found["steps_to_one_update"]["median"] == 1
    assert found["steps_to_one_update"]["share_that_reaches_it"] == 1
    assert len(found["trials"]) == 12
    assert sorted(trial["steps"] for trial in found["trials"]) == [4] * 8 + [12] * 4
    named = {make_rule(name).name for name in RULES}
    assert set(facts["optimizers"]) | set(facts["left_out"]) == named  # new rules come in by themselves
    assert {"SGD", "Adam", "LAMB", "M-FAC", "Lookahead Adam", "Adam guarded by SGD"} <= set(facts["optimizers"])
    assert set(facts["left_out"]) == {"FOOF", "KFAC", "G.pt"}
    for name in facts["left_out"]:
        assert any(note.startswith(f"Not here: {name}: ") for note in section.notes)
    assert facts["one_update"]["test_loss"]["mean"] == pytest.approx(0.5, abs=1e-4)
    assert facts["one_update"]["cost"]["model_passes"] == 2
    costs = {name: one["cost_of_step"] for name, one in facts["optimizers"].items()}
    assert (costs["SGD"]["gradients"], costs["Adam guarded by SGD"]["gradients"]) == (1, 2)
    assert costs["Adam"]["state_bytes"] == 2 * 4 * 39
    assert len(facts["after_one_update"]) == 2
    json.dumps(facts, allow_nan=False)


@pytest.fixture
def two_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courses, "RULES", {name: RULES[name] for name in ("sgd", "adam")})


def test_steps_go_on_from_the_update(two_rules) -> None:
    # an update to a loss of 1e-4 leaves less than any rule leaves in one step from a fresh network
    section = measure_optimizers(subject(lambda prompt, before, generator: 1e-4 * prompt, optimizer_steps=2))
    assert section is not None
    for name, after in section.facts["after_one_update"].items():
        fresh = section.facts["optimizers"][name]["test_loss"][0]["mean"]
        assert after["test_loss"][0]["mean"] <= min(fresh, 1e-4)


def test_what_no_optimizer_reaches_is_said_so(two_rules) -> None:
    section = measure_optimizers(subject(lambda prompt, before, generator: 1e-30 * prompt, optimizer_steps=2))
    assert section is not None
    found = section.facts["optimizers"]["Adam"]["steps_to_one_update"]
    assert (found["median"], found["share_that_reaches_it"]) == (None, 0)
    assert "> 2" in next(row for row in section.tables[1].rows if row[0] == "Adam")[1]
    json.dumps(section.facts, allow_nan=False)


def test_networks_keep_their_places_in_every_order_of_the_batches() -> None:
    tested, task = subject(perfect), Bowl()
    starts, others = (task.init(num, torch.Generator().manual_seed(num)) for num in (9, 4))
    course = run_rival("sgd", SGDRule(schedule="constant"), tested, starts, [1, 2], others)
    before = task.evaluate(starts)["loss"]
    for column, (steps, settings) in enumerate(zip((1, 2), course.settings, strict=True)):
        wanted = before * (1 - settings["learning_rate"]) ** (2 * steps)
        torch.testing.assert_close(course.test["loss"][:, column], wanted, rtol=1e-3, atol=1e-6)


def test_random_settings_are_searched_for_the_steps_of_the_harvest() -> None:
    section = measure_random_search(subject(perfect))
    assert section is not None
    facts = section.facts
    assert facts["network_steps_of_the_harvest"] == 30 * 20
    assert facts["best"]["steps"] in {5, 10, 15, 20, 25, 30, 35, 4, 13, 40}
    assert facts["one_update"]["test_loss"]["mean"] == pytest.approx(0.5, abs=1e-4)
    assert facts["best_settings"]["test_loss"]["mean"] < 0.01  # the bowl is easy
    assert facts["best_settings"]["test_loss"]["best_on_validation"] <= facts["best_settings"]["test_loss"]["mean"]
    json.dumps(facts, allow_nan=False)


def test_numbers_of_steps() -> None:
    assert measured_steps(1) == [1]
    assert measured_steps(32) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 26, 32]
    assert measured_steps(12)[-1] == 12


def test_landscape_of_a_bowl() -> None:
    section = measure_landscape(subject(perfect))
    assert section is not None
    # updates are shorter networks in the direction of their starts, and so is training
    assert section.facts["cosine"]["mean"] == pytest.approx(1, abs=1e-5)
    assert section.facts["barrier"]["mean"] == pytest.approx(0, abs=1e-5)  # a bowl is convex
    assert section.facts["start_to_trained"]["mean"] > section.facts["start_to_update"]["mean"]


def test_a_plane_holds_its_three_points() -> None:
    start, trained, update = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    axes = plane(start, trained, update)
    torch.testing.assert_close(axes @ axes.T, torch.eye(2), atol=1e-5, rtol=0)
    for point in (trained, update):
        torch.testing.assert_close(((point - start) @ axes.T) @ axes, point - start, atol=1e-4, rtol=0)
    assert ((trained - start) @ axes[1]).abs() < 1e-4


def test_a_walk_says_how_far_it_goes() -> None:
    facts = measure_latent_walk(subject(stubborn)).facts
    assert facts["frames"] == len(facts["test_loss"]) == 48
    assert facts["distance_between_frames"]["largest"] == pytest.approx(0, abs=1e-6)  # the stand-in ignores the noise
    assert facts["test_loss"] == pytest.approx([1.2] * 48, abs=1e-4)


def test_pictures_and_document_are_written(tmp_path, two_rules) -> None:
    names = ("recursion", "optimizers", "landscape", "latent_walk", "prompting")
    sections = [load_section(name)(subject(halfway, num_networks=4)) for name in names]
    path = write_document(sections, "a title", "a lead", tmp_path / "deep")
    text = path.read_text()
    for section in sections:
        assert f"## {section.title}" in text
        for name in section.figures:
            assert f"({name})" in text
            start = (tmp_path / "deep" / name).read_bytes()[:6]
            assert start == b"GIF89a" if name.endswith(".gif") else start.startswith(b"\x89PNG")
    found = report_json(sections, {"model": "x"})
    assert found["prompt_alignment"]["full"]["networks"] == 4
    assert set(found["sections"]) == set(names) - {"prompting"}


def test_sections_are_found_by_name() -> None:
    with pytest.raises(ValueError, match=r"no section 'novelties'; sections are \['prompting'"):
        load_section("novelties")
    assert load_section("samples") is measure_samples
    assert list(islice(SECTIONS, 2)) == ["prompting", "recursion"]


def test_a_table_in_markdown() -> None:
    table = Table("A title", ("a", "b"), (("1", "2"),))
    assert table.markdown() == "**A title**\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert Section("name", "Title", {}).tables == ()
    assert math.isfinite(measure_samples(subject(perfect, num_networks=4)).facts["samples"])
