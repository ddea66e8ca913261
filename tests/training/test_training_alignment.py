"""The second stage: the sampler, its gradient, the loss by hand."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from alignment_losses import ONE_PROCESS, SMALL, Recorder, make_loss, pairs_of
from builders import build_pipeline
from tiny_training import tiny_config
from torch import nn

from g_pt.model.pairs import CheckpointPairs
from g_pt.model.sampling import Condition, sample
from g_pt.model.schedulers import make_scheduler
from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.examples import split_examples
from g_pt.training.alignment import align


class Blobs(ClassificationTask):
    """Networks with BatchNorm."""

    name = "blobs"
    splits = split_examples(
        5 + 2 * torch.randn(300, 3, generator=torch.Generator().manual_seed(0)), torch.arange(300) % 2
    )

    def network(self):
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def sampler_inputs(pipeline, num_networks=3):
    starts = pipeline.task.init(num_networks, torch.Generator().manual_seed(5))
    noise = torch.randn(starts.shape, generator=torch.Generator().manual_seed(6))
    prompts = torch.linspace(0.1, 2.0, num_networks)
    starting = pipeline.task.evaluate(starts, "validation")["loss"]
    return starts, (pipeline.normalizer.normalize(starts), starting, prompts, noise)


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++"])
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_samples_are_those_of_the_pipeline(random_pipeline, monkeypatch, scheduler, num_steps):
    random_pipeline.set_scheduler(scheduler)
    starts, inputs = sampler_inputs(random_pipeline)
    monkeypatch.setattr("g_pt.model.pipeline.randn_tensor", lambda *_, **__: inputs[-1])
    expected = random_pipeline(starts, inputs[2], num_inference_steps=num_steps).params
    sampler = make_scheduler(scheduler, dict(random_pipeline.scheduler.config))
    x_0 = sample(
        random_pipeline.transformer, sampler, Condition(*inputs[:3]), inputs[3], num_steps, gradient_steps=2
    )  # fmt: skip
    torch.testing.assert_close(random_pipeline.normalizer.unnormalize(x_0.detach()), expected)
    assert (expected - starts).abs().max() > 0.05


def ddim_by_hand(pipeline, inputs, num_steps, gradient_steps):
    """x_0 after the steps of Song et al. 2021, eq. 12 with sigma = 0."""
    x_start, starting, prompts, x = inputs
    abar = pipeline.scheduler.alphas_cumprod
    times = torch.linspace(1000, 0, num_steps + 1).round().long() - 1
    for i, (t, following) in enumerate(pairwise(times)):
        if i == num_steps - gradient_steps:
            x = x.detach()
        now, then = abar[t], abar[following] if following >= 0 else torch.tensor(1.0)
        x_0 = pipeline.transformer(x, t.expand(len(x)), x_start, starting, prompts)
        x = then.sqrt() * x_0 + (1 - then).sqrt() * (x - now.sqrt() * x_0) / (1 - now).sqrt()
    return x


@pytest.mark.parametrize(("num_steps", "gradient_steps"), [(4, 1), (4, 2), (2, 2), (2, 5)])
def test_the_gradient_is_that_of_the_last_steps_alone(random_pipeline, num_steps, gradient_steps):
    _, inputs = sampler_inputs(random_pipeline)
    model = Recorder(random_pipeline.transformer)
    x_0 = sample(
        model, random_pipeline.scheduler, Condition(*inputs[:3]), inputs[3], num_steps, gradient_steps=gradient_steps
    )
    first = max(0, num_steps - gradient_steps)
    assert [call.gradient for call in model.calls] == [i >= first for i in range(num_steps)]
    assert [call.x_t.requires_grad for call in model.calls] == [i > first for i in range(num_steps)]
    by_hand = ddim_by_hand(random_pipeline, inputs, num_steps, gradient_steps)
    torch.testing.assert_close(x_0, by_hand, rtol=1e-4, atol=1e-4)
    parameters = [p for p in random_pipeline.transformer.parameters() if p.numel()]
    got, expected = (torch.autograd.grad(x.square().mean(), parameters) for x in (x_0, by_hand))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()) + 1e-6)
    if first > 0:
        [more] = torch.autograd.grad(
            ddim_by_hand(random_pipeline, inputs, num_steps, num_steps).square().mean(), parameters[:1]
        )
        assert not torch.allclose(more, expected[0], rtol=1e-3), "earlier steps would add to the gradient"


def test_copies_of_weights_that_autocast_made_without_gradient_are_not_used_again(random_pipeline, monkeypatch):
    weight, cache = torch.nn.Parameter(torch.tensor(2.0)), []

    def model(x_t, *_):  # as under autocast of PyTorch 2.6 to 2.10
        if not cache:
            cache.append(weight.to(torch.bfloat16))
        return x_t * cache[0].float()

    monkeypatch.setattr(torch, "clear_autocast_cache", cache.clear)
    _, inputs = sampler_inputs(random_pipeline)
    x_0 = sample(model, random_pipeline.scheduler, Condition(*inputs[:3]), inputs[3], 4, gradient_steps=2)
    assert x_0.requires_grad


def test_the_training_metric_has_value_and_gradient_of_the_training_loss(tiny_pipeline, digits):
    loss = make_loss(tiny_pipeline, digits)
    params = digits.init(3, torch.Generator().manual_seed(2)).requires_grad_()
    examples = torch.arange(40, 100)
    achieved = loss.reached.training_metric(params, examples)
    training = digits.training_losses(digits.layout.unflatten(params), examples).log()
    torch.testing.assert_close(achieved, training)
    factors = torch.tensor([1.0, -2.0, 0.5])
    got, expected = (torch.autograd.grad((factors * x).sum(), params)[0] for x in (achieved, training))
    torch.testing.assert_close(got, expected)
    assert got.abs().sum(dim=1).min() > 0


def test_the_gap_is_that_of_the_harvested_networks(tiny_pipeline, digits):
    def pairs(step, share):
        networks = digits.init(8, torch.Generator().manual_seed(step)) * torch.linspace(1, 8, 8)[:, None]
        metric = digits.evaluate(networks, "validation")["loss"]
        return CheckpointPairs(networks[share], networks[share], metric[share], metric[share])

    loss = make_loss(tiny_pipeline, digits, pairs=pairs)
    batch = pairs(1000, slice(None))
    training = digits.training_losses(digits.layout.unflatten(batch.future_params), torch.arange(digits.num_examples))
    validation = batch.future_metric.log()
    assert validation.amax() - validation.amin() > 1
    assert (loss.gap(validation) - training.log()).abs().mean() < 0.1


@pytest.mark.parametrize("num_networks", [1, 3])
def test_networks_with_batch_norm_are_measured_in_training_mode_and_stay_as_they_are(num_networks):
    task = Blobs()
    loss = make_loss(build_pipeline(task), task)
    params = task.init(num_networks, torch.Generator().manual_seed(2))
    sampled = params.clone().requires_grad_()
    updated = 1.0 * sampled
    loss.reached.training_metric(updated, torch.arange(50)).sum().backward()
    assert torch.equal(updated.detach(), params), "measuring changes no network"
    gradient = task.layout.unflatten(sampled.grad)
    assert gradient["0.weight"].abs().max() > 0
    assert not gradient["1.running_mean"].any(), "normalised by the batch"


def test_prompts_cover_the_attainable_range_and_a_margin(digits):
    pipeline = build_pipeline(digits, attainable_range=[0.1, 10.0])
    loss = make_loss(pipeline, digits, margin=0.25, full_range_share=0.0)
    drawn = torch.stack([loss.draw_prompts(torch.Generator().manual_seed(i)) for i in range(500)])
    assert drawn.shape == (500, 8)
    low, high = torch.tensor([0.1**1.5, 10.0**1.5]).log().tolist()
    assert low <= drawn.min() < low + 0.05
    assert high - 0.05 < drawn.max() <= high
    assert drawn.mean() == pytest.approx(0.0, abs=0.15)


def test_a_share_of_the_prompts_covers_the_range_of_the_checkpoints(digits):
    pipeline = build_pipeline(digits, attainable_range=[1.0, 1.1], prompt_range=[0.01, 100.0])
    loss = make_loss(pipeline, digits, margin=0.0, full_range_share=0.25)
    drawn = torch.stack([loss.draw_prompts(torch.Generator().manual_seed(i)) for i in range(500)])
    far = drawn[(drawn < 0) | (drawn > torch.tensor(1.1).log())]
    assert len(far) / drawn.numel() == pytest.approx(0.25, abs=0.03)
    assert torch.tensor(0.01).log() <= far.min() < -4
    assert torch.tensor(100.0).log() >= far.max() > 4


@pytest.mark.parametrize(("share", "num_checkpoints"), [(0.25, 2), (0.0, 0), (1.0, 8)])
def test_starts_are_fresh_inits_and_checkpoints(tiny_pipeline, digits, share, num_checkpoints):
    loss = make_loss(tiny_pipeline, digits, checkpoint_share=share)
    starts, metric = loss.draw_starts(3, torch.Generator().manual_seed(0))
    known = pairs_of(digits)(3, slice(None))
    fresh = digits.init(8 - num_checkpoints, torch.Generator().manual_seed(0))
    assert torch.equal(starts, torch.cat([fresh, known.starting_params[:num_checkpoints]]))
    if len(fresh):
        torch.testing.assert_close(metric[: len(fresh)], digits.evaluate(fresh, "validation")["loss"])
    assert torch.equal(metric[len(fresh) :], known.starting_metric[:num_checkpoints])


def test_every_step_draws_anew_and_the_same_step_the_same(random_pipeline, digits):
    loss = make_loss(random_pipeline, digits, max_sampling_steps=4, diffusion_weight=0.3)
    recorded = []
    for step in (0, 1, 2, 3, 0):
        model = Recorder(random_pipeline.transformer)
        recorded.append((loss(model, step).item(), model.calls))
    (first, calls), *others, (again, same) = recorded
    assert again == first
    assert all(torch.equal(a.x_t, b.x_t) for a, b in zip(calls, same, strict=True))
    numbers = {len(steps) - 1 for _, steps in recorded}  # the last call is that of the denoising loss
    assert len(numbers) > 1
    assert numbers <= {2, 3, 4}
    for value, other in others:
        assert value != first
        for name in ("x_t", "x_start", "prompted"):
            assert not torch.isclose(getattr(other[0], name), getattr(calls[0], name)).any(), name
    for _, steps in recorded:
        assert [call.gradient for call in steps] == [False] * (len(steps) - 3) + [True] * 3


def test_the_loss_is_the_mean_squared_gap(tiny_pipeline, digits):
    model = Recorder(tiny_pipeline.transformer)  # untrained: every update is the identity
    loss = make_loss(tiny_pipeline, digits, checkpoint_share=0.0)
    loss.reached.training_metric = lambda params, examples: digits.evaluate(params, "validation")["loss"].log()
    loss.gap = lambda validation: validation + 0.3
    got = loss(model, 7)
    call = model.calls[0]
    starts = tiny_pipeline.normalizer.unnormalize(call.x_start)
    reached = digits.evaluate(starts, "validation")["loss"]
    torch.testing.assert_close(call.starting, reached)
    assert got.item() == pytest.approx(((reached / call.prompted).log() - 0.3).square().mean().item(), rel=1e-4)
    assert got > 0.1


def test_the_denoising_loss_of_other_pairs_is_added(tiny_pipeline, digits):
    plain, both = (
        make_loss(tiny_pipeline, digits, diffusion_weight=w, batch_size=4)(tiny_pipeline.transformer, 7)
        for w in (0.0, 0.5)
    )
    denoising = (0.01 * (7 + 50) / tiny_pipeline.normalizer.std[0].item()) ** 2  # pairs of steps after the first stage
    assert (both - plain).item() == pytest.approx(0.5 * denoising, rel=1e-3)


def test_the_denoising_loss_permutes_pairs_as_the_first_stage_does(tiny_pipeline, digits):
    calls = []
    for augmentation in ("none", "permute"):
        model = Recorder(tiny_pipeline.transformer)
        make_loss(tiny_pipeline, digits, augmentation=augmentation).denoising(model, 7)
        calls += model.calls
    plain, permuted = (tiny_pipeline.normalizer.unnormalize(call.x_start) for call in calls)
    assert not torch.allclose(plain, permuted)
    torch.testing.assert_close(digits.evaluate(plain)["loss"], digits.evaluate(permuted)["loss"])


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_mean_over_two_processes_is_the_loss_of_one(random_pipeline, digits, weight):
    processes = [
        ONE_PROCESS,
        *(SimpleNamespace(**vars(ONE_PROCESS) | {"num_processes": 2, "process_index": i}) for i in (0, 1)),
    ]
    whole, *halves = (
        make_loss(random_pipeline, digits, process, diffusion_weight=weight)(random_pipeline.transformer, 2).item()
        for process in processes
    )
    assert sum(halves) / 2 == pytest.approx(whole, rel=1e-4)
    assert halves[0] != pytest.approx(halves[1], rel=1e-5)


def test_metrics_are_measured_in_full_precision_under_autocast(tiny_pipeline, digits):
    model, loss = Recorder(tiny_pipeline.transformer), make_loss(tiny_pipeline, digits)
    with torch.autocast("cpu", torch.bfloat16):
        loss(model, 7)
        assert loss.draw_starts(7, torch.Generator())[1].dtype == torch.float32
    exact = Recorder(tiny_pipeline.transformer)
    loss(exact, 7)
    assert torch.equal(model.calls[0].starting, exact.calls[0].starting)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"metric": "error", "alignment": replace(SMALL, gradient="exact")},
            "metric 'error' of task 'digits' has no exact",
        ),
        ({"alignment": replace(SMALL, batch_size=9)}, r"at most pairs\.batch_size = 8, got 9"),
    ],
)
def test_what_cannot_be_aligned_is_refused(tiny_pipeline, digits, tmp_path, changes, message):
    config = replace(tiny_config(tmp_path), **{"alignment": SMALL} | changes)
    with pytest.raises(ValueError, match=message):
        align(config, digits, tiny_pipeline, pairs_of(digits))
    assert not list(tmp_path.iterdir())
