import pytest
import torch

from g_pt.evaluation.statistics import (
    Interval,
    best_of,
    bootstrap_mean,
    bootstrap_median,
    first_reached,
    prompt_alignment,
    rank_correlation,
    summary,
)
from g_pt.networks.metrics import Metric

PROMPTS = torch.tensor([1.0, 2.0, 3.0, 4.0])


def test_a_perfect_prompter_has_one():
    assert prompt_alignment(PROMPTS, PROMPTS.repeat(3, 1)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("constant", [-7.0, 1.0, 2.5, 100.0])
def test_a_constant_answer_has_at_most_zero(constant):
    value = prompt_alignment(PROMPTS, torch.full((1, 4), constant)).item()
    assert value <= 0
    assert (value == 0) == (constant == PROMPTS.mean())


def test_by_hand():
    # squared gaps 0.25 + 0 + 1 + 0.25 = 1.5; spread 2.25 + 0.25 + 0.25 + 2.25 = 5
    value = prompt_alignment(PROMPTS, torch.tensor([[1.5, 2.0, 2.0, 4.5]])).item()
    assert value == pytest.approx(1 - 1.5 / 5, abs=1e-12)


@pytest.mark.parametrize("offset", [0.1, -0.1, 3.0])
def test_an_offset_costs_its_square_over_the_variance(offset):
    value = prompt_alignment(PROMPTS.double(), (PROMPTS + offset).double()[None]).item()
    assert value == pytest.approx(1 - offset**2 / 1.25, abs=1e-6)


def test_networks_are_scored_alone_with_their_own_prompts():
    prompts = torch.stack([PROMPTS, 10 * PROMPTS])
    achieved = torch.stack([PROMPTS, torch.full((4,), 25.0)])
    assert prompt_alignment(prompts, achieved).tolist() == [1, 0]


def test_nan_is_not_hidden():
    assert prompt_alignment(PROMPTS, torch.tensor([[1, 2, 3, torch.nan]])).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, 1.0, 2.3])
def test_prompts_that_are_all_the_same_are_refused(value, dtype):
    with pytest.raises(ValueError, match="prompts that differ"):
        prompt_alignment(torch.full((3,), value, dtype=dtype), torch.zeros(1, 3))


def test_a_single_prompt_is_refused():
    with pytest.raises(ValueError, match="at least 2 prompts per network, got 1"):
        prompt_alignment(torch.ones(1), torch.ones(5, 1))


@pytest.mark.parametrize(("mean", "sigma", "num"), [(0.0, 1.0, 400), (5.0, 0.2, 1000)])
def test_the_width_of_an_interval_is_that_of_the_normal_distribution(mean, sigma, num, generator):
    values = mean + sigma * torch.randn(num, generator=generator)
    interval = bootstrap_mean(values)
    assert interval.mean == pytest.approx(values.double().mean().item(), abs=1e-12)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std().item() / num**0.5, rel=0.05)
    assert (interval.high + interval.low) / 2 == pytest.approx(interval.mean, abs=0.1 * sigma / num**0.5)


def test_intervals_cover_the_true_mean_as_often_as_they_say(generator):
    samples = 3 + 2 * torch.randn(400, 50, generator=generator)
    intervals = [bootstrap_mean(values, num_resamples=1000) for values in samples]
    covered = sum(i.low <= 3 <= i.high for i in intervals) / 400
    assert 0.90 < covered < 0.98  # 95 %, less a little at n = 50; the standard error is 1.1 %


def test_the_seed_decides():
    values = torch.randn(30, generator=torch.Generator().manual_seed(0))
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values)


def test_equal_values_leave_no_doubt():
    assert bootstrap_mean(torch.full((5,), 2.0)) == Interval(2.0, 2.0, 2.0)


@pytest.mark.parametrize("shape", [(), (1,), (3, 2)])
def test_too_few_values_or_axes_are_refused(shape):
    with pytest.raises(ValueError, match="at least 2 values in one dimension"):
        bootstrap_mean(torch.zeros(shape))


def test_an_interval_is_readable():
    assert str(Interval(0.91234567, 0.9, 0.925)) == "0.9123 [0.9, 0.925]"


LOSS, RETURN = Metric("loss", "nats"), Metric("return", "return", minimize=False)


def test_rank_correlation_sees_the_order_only():
    achieved = torch.stack([PROMPTS.exp(), -PROMPTS, torch.full((4,), 3.0), torch.tensor([1.0, 3.0, 2.0, 4.0])])
    # Spearman's formula for the last: 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15) = 0.8
    torch.testing.assert_close(rank_correlation(PROMPTS, achieved), torch.tensor([1, -1, 0, 0.8]).double())


def test_equal_values_share_their_rank():
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)
    value = rank_correlation(PROMPTS, torch.tensor([[0.0, 5.0, 5.0, 9.0]])).item()
    assert value == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_the_best_is_chosen_on_one_split_and_reported_on_the_other():
    validation, test = torch.tensor([[3.0, 1.0, 2.0, 0.5]]), torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    assert best_of(validation, test, 1, LOSS).item() == 25  # every sample is the best of itself
    assert best_of(validation, test, 2, LOSS).item() == (20 + 40) / 2
    assert best_of(validation, test, 2, RETURN).item() == (10 + 30) / 2
    assert best_of(validation, test, 3, LOSS).item() == 20  # the fourth is left over
    assert best_of(validation, test, 4, LOSS).item() == 40
    with pytest.raises(ValueError, match="between 1 and 4"):
        best_of(validation, test, 5, LOSS)


def test_steps_are_counted_to_the_first_that_reaches_it():
    curves = torch.tensor([[3.0, 1.0, 2.0], [3.0, 2.0, 1.9], [torch.nan, 0.5, 0.1]])
    assert first_reached(curves, [1, 10, 100], torch.tensor([1.0, 1.0, 0.1]), LOSS).tolist() == [10, torch.inf, 100]
    assert first_reached(curves, [1, 10, 100], torch.tensor([2.5, 2.0, 9.0]), RETURN).tolist() == [1, 1, torch.inf]


def test_a_median_bears_infinity():
    few = bootstrap_median(torch.tensor([10.0] * 30 + [torch.inf]))
    assert (few.mean, few.low, few.high) == (10, 10, 10)
    most = bootstrap_median(torch.tensor([10.0] + [torch.inf] * 30))
    assert most.mean == most.low == torch.inf
    spread = bootstrap_median(torch.arange(101.0))
    assert spread.mean == 50
    assert 30 < spread.low < 50 < spread.high < 70


def test_a_summary_counts_its_networks():
    found = summary(torch.tensor([1.0, 3.0, 2.0]))
    assert (found["mean"], found["networks"]) == (2, 3)
    assert found["low"] < 2 < found["high"]


def test_a_summary_of_what_diverged_is_json():
    assert summary(torch.tensor([1.0, torch.nan])) == {"mean": None, "low": None, "high": None, "networks": 2}
