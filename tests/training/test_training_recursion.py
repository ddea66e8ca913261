"""Starts of the second stage that are the model's own updates."""

from types import SimpleNamespace

import pytest
import torch
from alignment_losses import Recorder, make_loss

from g_pt.training.config import AlignmentConfig


def starts_of(pipeline, digits, share, *, process=None, step=3):
    """What a step starts from before and after updates, normalised, and the metrics that belong to the latter."""
    model = Recorder(pipeline.transformer)
    process = process or SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"))
    make_loss(pipeline, digits, process, recursive_share=share)(model, step)
    first, last = model.calls[0], model.calls[-1]
    return first.x_start, last.x_start, last.starting, model.calls


def test_all_starts_are_results_of_the_model_and_their_metrics_are_measured_anew(random_pipeline, digits):
    before, after, starting, calls = starts_of(random_pipeline, digits, 1.0)
    assert (after - before).abs().amax(dim=1).min() > 0.01
    networks = random_pipeline.normalizer.unnormalize(after)
    torch.testing.assert_close(starting, digits.evaluate(networks, "validation")["loss"])
    results = [call for call in calls if torch.equal(call.x_start, after)]
    assert 0 < len(results) < len(calls)
    assert not any(call.gradient for call in calls[: -len(results)]), "no gradient flows into how a start was made"


def test_without_a_share_nothing_is_updated(random_pipeline, digits):
    *_, calls = starts_of(random_pipeline, digits, 0.0)
    assert all(torch.equal(call.x_start, calls[0].x_start) for call in calls)


@pytest.mark.parametrize(("share", "rows"), [(0.25, [3, 7]), (0.5, [1, 3, 5, 7]), (0.4, [2, 4, 7])])
def test_a_share_of_the_starts_is_updated_and_the_others_stay(random_pipeline, digits, share, rows):
    before, *_ = starts_of(random_pipeline, digits, 0.0)
    _, after, *_ = starts_of(random_pipeline, digits, share)
    changed = (after - before).abs().amax(dim=1)
    assert (changed > 1e-2).nonzero()[:, 0].tolist() == rows
    assert changed[[r for r in range(8) if r not in rows]].max() == 0


def test_updates_that_are_not_finite_do_not_become_starts(random_pipeline, digits, monkeypatch):
    monkeypatch.setattr(type(digits), "recalibrate", lambda self, params: params * torch.nan)
    before, after, starting, _ = starts_of(random_pipeline, digits, 1.0)
    assert torch.equal(before, after)
    assert starting.isfinite().all()


def test_each_process_starts_from_its_rows_of_the_batch_of_one(random_pipeline, digits):
    _, whole, metrics, _ = starts_of(random_pipeline, digits, 0.5)
    for index in range(2):
        process = SimpleNamespace(num_processes=2, process_index=index, device=torch.device("cpu"))
        _, part, metric, _ = starts_of(random_pipeline, digits, 0.5, process=process)
        torch.testing.assert_close(part, whole[4 * index : 4 * index + 4])
        torch.testing.assert_close(metric, metrics[4 * index : 4 * index + 4])


def test_a_share_is_a_share():
    with pytest.raises(ValueError, match="recursive_share must lie between 0 and 1, got 2"):
        AlignmentConfig(recursive_share=2)
