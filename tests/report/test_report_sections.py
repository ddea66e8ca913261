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
from g_pt.report.contents import SECTIONS, load_section
from g_pt.report.document import report_json, write_document
from g_pt.report.inits import measure_inits
from g_pt.report.landscape import measure_landscape, plane
from g_pt.report.latent_walk import measure_latent_walk
from g_pt.report.optimizers import Trial, follow_rates, measure_optimizers, measured_steps, rate_grid, rivals, tune
from g_pt.report.prompting import measure_prompting
from g_pt.report.recursion import measure_recursion
from g_pt.report.samples import measure_samples
from g_pt.report.section import Section, Subject, Table
from g_pt.update_rules.gradient import SGDRule


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


def test_optimizers_are_tuned_for_their_number_of_steps_and_counted() -> None:
    # the gradient of the bowl is the network itself: SGD with rate 1, which is on the grid, is there after one step
    section = measure_optimizers(subject(perfect))
    assert section is not None
    found = section.facts["optimizers"]["SGD"]
    assert found["learning_rate"][0] == pytest.approx(1)
    assert found["test_loss"][0]["mean"] == pytest.approx(0, abs=1e-6)
    assert found["steps_to_one_update"]["median"] == 1
    assert found["steps_to_one_update"]["share_that_reaches_it"] == 1
    assert set(section.facts["optimizers"]) == {"SGD", "Momentum", "Nesterov", "Adam", "AdamW", "RMSprop", "STAR"}
    assert section.facts["one_update"]["test_loss"]["mean"] == pytest.approx(0.5, abs=1e-4)
    assert section.facts["one_update"]["forward_passes_of_the_model"] == 2
    json.dumps(section.facts, allow_nan=False)


def test_what_no_optimizer_reaches_is_said_so() -> None:
    section = measure_optimizers(subject(lambda prompt, before, generator: 1e-30 * prompt, optimizer_steps=2))
    assert section is not None
    found = section.facts["optimizers"]["Adam"]["steps_to_one_update"]
    assert (found["median"], found["share_that_reaches_it"]) == (None, 0)
    assert "> 2" in section.tables[1].rows[4][1]
    json.dumps(section.facts, allow_nan=False)


def test_a_diverging_rate_is_never_chosen() -> None:
    rates = torch.tensor([0.1, 1.0, 1e30])
    starts = Bowl().init(4, torch.Generator().manual_seed(0))
    rule = Trial(SGDRule(schedule="constant"), Bowl(), batch_size=8)
    orders = lambda order: torch.Generator().manual_seed(order)  # noqa: E731
    assert tune(rule, rates, starts, [1, 5], Bowl.metrics["loss"], orders).tolist() == [1, 1]


def test_rates_and_starts_are_kept_apart_in_every_order_of_the_batches() -> None:
    starts, rates = Bowl().init(9, torch.Generator().manual_seed(0)), torch.tensor([0.0, 0.5])
    rule = Trial(SGDRule(schedule="constant"), Bowl(), batch_size=8)
    seeds: list[int] = []
    orders = lambda order: (seeds.append(order), torch.Generator())[1]  # noqa: E731
    found = follow_rates(rule, rates, starts, [1, 2], "test", orders)["loss"]  # (2, 9, 2)
    before = Bowl().evaluate(starts)["loss"]
    torch.testing.assert_close(found[0], before[:, None].expand(9, 2))
    torch.testing.assert_close(found[1], before[:, None] * torch.tensor([0.25, 0.0625]))
    assert seeds == list(range(len(seeds)))
    assert len(seeds) > 1


def test_grids_and_numbers_of_steps() -> None:
    assert rate_grid(0.01, 10.0).tolist()[::3] == pytest.approx([0.01, 0.1, 1, 10])
    assert all(1.0 in [round(r, 6) for r in rate_grid(*rule.tuned_between).tolist()] for rule in rivals().values())
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


def test_pictures_and_document_are_written(tmp_path) -> None:
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
