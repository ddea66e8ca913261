"""Facts of a training: read with care, written as they were."""

import pytest
import torch

from g_pt.networks.metrics import Metric
from g_pt.networks.training_facts import AlignmentFacts, DatasetFacts, TrainedRuns, TrainingFacts

ENTRIES = {
    "prompt_range": [0.05, 2.5],
    "attainable_range": [0.1, 2.25],
    "trained_runs": {"num_runs": 5, "test_loss": {"mean": 0.25}, "test_error": {"mean": 3.0}},
    "dataset": {"num_runs": 90, "num_checkpoints": 900, "source": {"kind": "harvest", "task": "digits", "rule": {}}},
    "alignment": {"num_steps": 20, "gradient": "exact", "recursive_share": 0.25},
    "source": "measured",
}
TAUGHT = {"num_steps": 20, "gradient": "exact", "teacher_runs": 7, "attainable_range": [0.08, 2.2], "best_prompt": 0.07}
LOSS, RETURN = Metric("loss", "nats", transform="log"), Metric("return", "return", minimize=False)


def test_facts_are_written_as_they_were_read():
    facts = TrainingFacts.from_json(ENTRIES)
    assert facts == TrainingFacts(
        (0.05, 2.5),
        (0.1, 2.25),
        TrainedRuns({"test_loss": 0.25, "test_error": 3.0}, 5),
        DatasetFacts(90, 900, {"kind": "harvest", "task": "digits", "rule": {}}),
        AlignmentFacts(20, "exact", 0.25),
        "measured",
    )
    assert facts.to_json() == ENTRIES


def test_what_is_not_known_is_not_written_and_what_is_new_is_left_out():
    assert TrainingFacts.from_json({"of_a_newer_version": 1}) == TrainingFacts()
    assert TrainingFacts().to_json() == {}
    assert TrainingFacts.from_json({"trained_runs": {"test_loss": {"mean": 1}}}).to_json() == {
        "trained_runs": {"test_loss": {"mean": 1.0}}
    }


def test_prompts_go_from_the_best_metric_to_that_of_an_init():
    assert torch.equal(TrainingFacts.from_json(ENTRIES).prompts(3), torch.tensor([0.1, 1.175, 2.25]))


def test_prompts_begin_at_the_models_own_best_where_that_is_better_than_the_runs():
    entries = ENTRIES | {"alignment": TAUGHT, "mean_answer": {"num_runs": 4, "test_loss": {"mean": 0.2}}}
    facts = TrainingFacts.from_json(entries)
    assert facts.to_json() == entries
    assert (facts.attainable(), facts.attainable_of_runs()) == ((0.08, 2.25), (0.1, 2.25))
    worse = TrainingFacts.from_json(entries | {"alignment": TAUGHT | {"attainable_range": [0.12, 2.2]}})
    assert worse.attainable() == (0.1, 2.25)
    returns = {"attainable_range": [90.0, 10.0], "alignment": TAUGHT | {"attainable_range": [95.0, 11.0]}}
    assert TrainingFacts.from_json(returns).attainable() == (95.0, 10.0)
    with pytest.raises(ValueError, match="its own of the loss must not be negative"):
        TrainingFacts.from_json({"alignment": TAUGHT | {"attainable_range": [-1.0, 2.0]}}).check_metric(LOSS)


@pytest.mark.parametrize(("ask", "name"), [("attainable", "attainable_range"), ("seen", "prompt_range")])
def test_what_is_needed_and_not_known_is_an_error(ask, name):
    assert getattr(TrainingFacts.from_json(ENTRIES), ask)()
    with pytest.raises(ValueError, match=f"does not say the {name} of its training data"):
        getattr(TrainingFacts(), ask)()


def test_quality_by_a_metric_that_is_not_known_is_an_error():
    assert TrainingFacts.from_json(ENTRIES).quality("test_loss").num_runs == 5
    with pytest.raises(ValueError, match="does not say the test_return in trained_runs of its training data"):
        TrainingFacts.from_json(ENTRIES).quality("test_return")
    with pytest.raises(ValueError, match="does not say the trained_runs of its training data"):
        TrainingFacts().quality("test_loss")


def test_wrong_entries_are_refused_in_one_sentence(subtests):
    for entries, message in [
        ({"prompt_range": [1]}, "prompt_range must be a list of 2"),
        ({"prompt_range": [1, float("nan")]}, "finite number"),
        ({"prompt_range": [2, 1]}, "lower end first"),
        ({"attainable_range": "low"}, "attainable_range must be a list"),
        ({"trained_runs": 8}, "trained_runs must be an object"),
        ({"trained_runs": {"num_runs": -5}}, "num_runs must be 1 to 1e.06"),
        ({"trained_runs": {"test_loss": 0.3}}, "test_loss.*must be an object"),
        ({"dataset": {"num_runs": True}}, "num_runs must be a whole number"),
        ({"dataset": {"source": {"num_steps": 1e3}}}, "num_steps must be a whole number"),
        ({"dataset": {"source": {str(k): k for k in range(101)}}}, "at most 100 entries"),
        ({"alignment": {"num_steps": 5, "gradient": "guessed"}}, "gradient must be one of"),
        ([1], "must be an object"),
    ]:
        with subtests.test(str(entries)[:80]):
            with pytest.raises(ValueError, match=rf"^facts\.json.*{message}") as error:
                TrainingFacts.from_json(entries, "facts.json")
            assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("metric", "facts", "message"),
    [
        (LOSS, TrainingFacts(attainable_range=(2.0, 0.1)), "better end of the loss first"),
        (RETURN, TrainingFacts(attainable_range=(10.0, 400.0)), "better end of the return first"),
        (LOSS, TrainingFacts(prompt_range=(-0.1, 2.0)), "prompt_range of the loss must not be negative"),
    ],
)
def test_ranges_that_a_metric_cannot_have_are_refused(metric, facts, message):
    with pytest.raises(ValueError, match=message):
        facts.check_metric(metric)


def test_ranges_of_every_kind_of_metric_are_taken():
    TrainingFacts((0.0, 2.0), (0.1, 2.0)).check_metric(LOSS)
    TrainingFacts((-300.0, 0.0), (-10.0, -200.0)).check_metric(RETURN)
    TrainingFacts((0.1, 0.1), (0.1, 0.1)).check_metric(LOSS)
