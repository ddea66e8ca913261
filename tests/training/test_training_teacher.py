"""Runs as teacher of the second stage: their answers, the gap and its gradient by hand, prompts beyond the runs."""

from dataclasses import replace

import pytest
import torch
from alignment_losses import ONE_PROCESS, SMALL, make_loss, pairs_of
from builders import build_pipeline
from tiny_training import tiny_config, tiny_store, train, train_aligned, weights

from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.tasks import get_task
from g_pt.training.alignment import AlignmentLoss, align
from g_pt.training.generalization import GeneralizationGap
from g_pt.training.loop import make_denoising_loss
from g_pt.training.teacher import Teacher


def make_teacher(task, runs, metric="loss", **options):
    pipeline = build_pipeline(task)
    options = replace(
        SMALL,
        **{"teacher_runs": len(runs), "teacher_examples": 300, "teacher_noise": 0.0, "teacher_weight": 1.0} | options,
    )
    return Teacher(task, task.metric(metric), pipeline.normalizer, options, runs, 0)


def some_runs(task, num=5):
    return 3 * task.init(num, torch.Generator().manual_seed(3))


def test_answers_are_the_mean_of_the_runs_mixed_with_the_labels(digits):
    runs, train_split = some_runs(digits), digits.splits["train"]
    teacher = make_teacher(digits, runs, teacher_runs=3, teacher_examples=1500, teacher_weight=0.75)
    inputs = train_split.inputs[torch.arange(1500) % len(train_split)]
    assert torch.equal(teacher.inputs, inputs), "every training input as often as any other"
    chosen = runs[[0, 2, 4]]
    mean = digits.forward(digits.layout.unflatten(chosen), inputs).softmax(dim=1).mean(dim=0)
    labels = torch.eye(10)[train_split.labels[torch.arange(1500) % len(train_split)]].T
    torch.testing.assert_close(teacher.answers, 0.75 * mean + 0.25 * labels)
    noisy = make_teacher(digits, runs, teacher_noise=0.5, teacher_examples=1500).inputs - inputs
    assert noisy.std().item() == pytest.approx(0.5, rel=0.01)


def test_the_taught_loss_is_the_cross_entropy_to_the_answers_and_the_penalty(digits):
    teacher = make_teacher(digits, some_runs(digits), teacher_penalty=0.2)
    networks, rows = digits.init(4, torch.Generator().manual_seed(1)).requires_grad_(), torch.arange(50, 250)
    got = teacher.training_metric(networks, rows)
    log_p = digits.forward(digits.layout.unflatten(networks), teacher.inputs[rows]).log_softmax(dim=1)
    cross_entropy = -(teacher.answers[:, rows] * log_p).sum(dim=1).mean(dim=1)
    usual = some_runs(digits).square().sum(dim=1).mean()
    expected = (cross_entropy + 0.2 * networks.square().sum(dim=1) / usual).log()
    torch.testing.assert_close(got, expected)
    gradients = [torch.autograd.grad(value.sum(), networks)[0] for value in (got, expected)]
    torch.testing.assert_close(*gradients)
    x_0 = teacher.normalizer.normalize(networks.detach())
    gap = teacher.squared_gap(x_0, torch.ones(4), torch.Generator().manual_seed(8), slice(None))
    drawn = torch.randint(300, (32,), generator=torch.Generator().manual_seed(8))
    torch.testing.assert_close(gap, (teacher.training_metric(networks, drawn) - 1).square().mean())


def test_beyond_the_runs_the_map_goes_on_as_it_came():
    """Networks along a line in both logs; those that end together scatter in the validation metric alone."""
    generator = torch.Generator().manual_seed(0)
    training = torch.cat([torch.linspace(-2, 1, 400), torch.full((400,), -2.0)])
    validation = 0.5 + 0.8 * training + 0.2 * torch.randn(800, generator=generator)
    fitted, level = GeneralizationGap.along_training(validation, training), GeneralizationGap.fit(validation, training)
    wanted = torch.tensor([-1.6, -1.1, 0.5, 1.3])  # of which the first is beyond
    torch.testing.assert_close(fitted(wanted), (wanted - 0.5) / 0.8, rtol=0, atol=0.12)
    assert level(wanted)[0] > fitted(wanted)[0] + 0.4, "grouped by what scatters, it would ask for nothing"
    assert fitted.validation.diff().min() > 0
    with pytest.raises(ValueError, match="at least two different metrics"):
        GeneralizationGap.along_training(torch.ones(5), torch.ones(5))


def test_regressions_are_taught_the_mean_prediction():
    task = get_task("regression")
    runs = some_runs(task)
    teacher = make_teacher(task, runs, teacher_penalty=0.0)
    mean = task.forward(task.layout.unflatten(runs), teacher.inputs).mean(dim=0)
    torch.testing.assert_close(teacher.answers, mean)
    rows = torch.arange(50)
    expected = (task.forward(task.layout.unflatten(runs[:2]), teacher.inputs[rows]) - mean[..., rows]).square()
    torch.testing.assert_close(teacher.training_metric(runs[:2], rows).exp(), expected.flatten(1).mean(dim=1))


def test_a_share_of_the_prompts_lies_beyond_the_runs_best(digits):
    pipeline = build_pipeline(digits, attainable_range=[0.1, 10.0])
    config = replace(tiny_config(None), alignment=replace(SMALL, margin=0.0, full_range_share=0.0, teacher_share=0.25))
    denoising = make_denoising_loss(config, digits, pipeline, pairs_of(digits), ONE_PROCESS)
    teacher = make_teacher(digits, some_runs(digits))
    loss = AlignmentLoss(config.alignment, digits, pipeline, denoising, ONE_PROCESS, seed=0, teacher=teacher)
    drawn = torch.stack([loss.draw_prompts(torch.Generator().manual_seed(i)) for i in range(500)])
    low, reach = torch.tensor(0.1).log().item(), 0.2 * torch.tensor(100.0).log().item()
    beyond = drawn[drawn < low]
    assert len(beyond) / drawn.numel() == pytest.approx(0.25, abs=0.03)
    assert low - reach <= beyond.min() < low - 0.95 * reach
    plain = make_loss(pipeline, digits, margin=0.0, full_range_share=0.0)
    assert torch.stack([plain.draw_prompts(torch.Generator().manual_seed(i)) for i in range(500)]).min() > low


def test_the_map_is_measured_anew_on_the_models_own_networks(digits, tiny_pipeline):
    config = replace(tiny_config(None), alignment=SMALL)
    denoising = make_denoising_loss(config, digits, tiny_pipeline, pairs_of(digits), ONE_PROCESS)
    teacher = make_teacher(digits, some_runs(digits))
    loss = AlignmentLoss(SMALL, digits, tiny_pipeline, denoising, ONE_PROCESS, seed=0, teacher=teacher)
    teacher.measure = lambda params, *_: 2 * digits.evaluate(params, "validation")["loss"].log() - 0.3
    of_runs, own = loss.gap, loss.own_gap(tiny_pipeline.transformer, 50)  # untrained: every update is the identity
    values = digits.evaluate(digits.init(16, torch.Generator().manual_seed(5)), "validation")["loss"].log()
    torch.testing.assert_close(own(values), 2 * values - 0.3, rtol=0, atol=1e-3)
    assert (of_runs(values) - own(values)).abs().min() > 0.1
    loss(tiny_pipeline.transformer, 49)
    assert loss.gap is of_runs
    loss(tiny_pipeline.transformer, 50)
    torch.testing.assert_close(loss.gap(values), own(values))


def test_a_taught_stage_resumes_and_says_what_it_attains(tmp_path, monkeypatch):
    monkeypatch.setattr("g_pt.training.alignment.REFIT_STEPS", 3)
    store = tiny_store(tmp_path / "data")
    base = tiny_config(tmp_path / "base", num_steps=30)
    train(replace(base, progress=replace(base.progress, evaluate_every=0, save_every=0)), store)
    ends = store.params(store.final_rows("train"))
    whole, stopped = (
        replace(tiny_config(tmp_path / name), alignment=replace(SMALL, num_steps=6, teacher_runs=4))
        for name in ("whole", "stopped")
    )
    pipeline = train_aligned(whole, store, base.pipeline_folder, run_ends=ends)
    with pytest.raises(KeyboardInterrupt):
        train_aligned(
            stopped, store, base.pipeline_folder, run_ends=ends, stop_at=5
        )  # the checkpoint is of step 4, the map of step 3
    train_aligned(stopped, store, base.pipeline_folder, run_ends=ends, resume=True)
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(stopped)[name]), name
    facts = ParameterUpdatePipeline.from_pretrained(whole.pipeline_folder).facts
    assert facts == pipeline.facts
    best, init = facts.alignment.attainable_range
    assert facts.alignment.teacher_runs == 4
    assert facts.attainable() == (min(best, facts.attainable_range[0]), facts.attainable_range[1])
    generator = torch.Generator().manual_seed(9)
    starts = get_task("digits").init(64, generator)
    updated = pipeline(starts, facts.alignment.best_prompt, generator=generator).params
    assert get_task("digits").evaluate(updated, "validation")["loss"].mean().item() == pytest.approx(best, rel=0.1)
    assert init == pytest.approx(facts.attainable_range[1], rel=0.05)


def test_what_cannot_teach_is_refused(digits, tiny_pipeline, tmp_path):
    config = replace(tiny_config(tmp_path), alignment=replace(SMALL, teacher_runs=4))
    with pytest.raises(ValueError, match=r"needs the runs' last checkpoints: give align\(\.\.\., run_ends=\)"):
        align(config, digits, tiny_pipeline, pairs_of(digits))
    cartpole = get_task("cartpole")
    policies = replace(config, task="cartpole", metric="return"), cartpole, build_pipeline(cartpole), pairs_of(cartpole)
    with pytest.raises(ValueError, match="of 'return' more is better"):
        align(*policies)
    assert not list(tmp_path.iterdir())
