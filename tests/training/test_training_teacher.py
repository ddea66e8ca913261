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
from g_pt.training.loop import make_denoising_loss
from g_pt.training.teacher import Teacher


def make_teacher(task, runs, metric="loss", **options):
    pipeline = build_pipeline(task)
    options = replace(SMALL, **{"teacher_runs": len(runs), "teacher_examples": 300, "teacher_noise": 0.0} | options)
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


@pytest.mark.parametrize("minimize", [True, False])
def test_the_gap_is_that_of_the_validation_metric_and_its_gradient_that_of_the_taught_loss(digits, minimize):
    teacher = make_teacher(digits, some_runs(digits), teacher_penalty=0.2, num_examples=200)
    teacher.metric = replace(teacher.metric, minimize=minimize)
    networks, wanted = digits.init(4, torch.Generator().manual_seed(1)), torch.linspace(-1, 1, 4)
    x_0 = teacher.normalizer.normalize(networks).requires_grad_()
    value = teacher.squared_gap(x_0, wanted, torch.Generator().manual_seed(8), slice(None))
    gaps = digits.evaluate(networks, "validation")["loss"].log() - wanted
    torch.testing.assert_close(value, gaps.square().mean())

    rows = torch.randint(300, (200,), generator=torch.Generator().manual_seed(8))
    again = x_0.detach().clone().requires_grad_()
    params = teacher.normalizer.unnormalize(again)
    log_p = digits.forward(digits.layout.unflatten(params), teacher.inputs[rows]).log_softmax(dim=1)
    cross_entropy = -(teacher.answers[:, rows] * log_p).sum(dim=1).mean(dim=1)
    usual = some_runs(digits).square().sum(dim=1).mean()
    taught = (cross_entropy + 0.2 * params.square().sum(dim=1) / usual).log()
    sign = 1 if minimize else -1
    (expected,) = torch.autograd.grad((2 * sign * gaps.detach() * taught).mean(), again)
    (got,) = torch.autograd.grad(value, x_0)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)


def test_a_prompt_that_cannot_be_had_teaches_the_mean_answer_and_one_that_can_is_met(digits):
    teacher = make_teacher(digits, some_runs(digits, 8), teacher_penalty=0.0, num_examples=300)
    x_0 = teacher.normalizer.normalize(digits.init(2, torch.Generator().manual_seed(1))).requires_grad_()
    below = 1.1 * digits.evaluate(teacher.normalizer.unnormalize(x_0).detach(), "validation")["loss"][1].log()
    optimizer, wanted = torch.optim.Adam([x_0], lr=0.1), torch.stack([torch.tensor(-6.0), below])
    rows = torch.arange(300)
    before = teacher.taught_loss(teacher.normalizer.unnormalize(x_0.detach()), rows)
    for step in range(150):
        optimizer.zero_grad()
        teacher.squared_gap(x_0, wanted, torch.Generator().manual_seed(step), slice(None)).backward()
        optimizer.step()
    networks = teacher.normalizer.unnormalize(x_0.detach())
    entropy = -(teacher.answers * teacher.answers.log()).sum(dim=0).mean()
    after = teacher.taught_loss(networks, rows)
    assert after[0] - entropy < 0.1 * (before[0] - entropy)
    assert digits.evaluate(networks, "validation")["loss"][1].log() == pytest.approx(below.item(), abs=0.05)


def test_regressions_are_taught_the_mean_prediction():
    task = get_task("regression")
    runs = some_runs(task)
    teacher = make_teacher(task, runs, teacher_penalty=0.0)
    mean = task.forward(task.layout.unflatten(runs), teacher.inputs).mean(dim=0)
    torch.testing.assert_close(teacher.answers, mean)
    rows = torch.arange(50)
    expected = (task.forward(task.layout.unflatten(runs[:2]), teacher.inputs[rows]) - mean[..., rows]).square()
    torch.testing.assert_close(teacher.taught_loss(runs[:2], rows), expected.flatten(1).mean(dim=1))


def test_a_share_of_the_prompts_lies_beyond_the_runs_best(digits):
    pipeline = build_pipeline(digits, attainable_range=[0.1, 10.0])
    config = replace(tiny_config(None), alignment=replace(SMALL, margin=0.0, full_range_share=0.0, teacher_share=0.25))
    denoising = make_denoising_loss(config, digits, pipeline, pairs_of(digits), ONE_PROCESS)
    teacher = make_teacher(digits, some_runs(digits))
    loss = AlignmentLoss(config.alignment, digits, pipeline, denoising, ONE_PROCESS, seed=0, teacher=teacher)
    drawn = torch.stack([loss.draw_prompts(torch.Generator().manual_seed(i)) for i in range(500)])
    low, reach = torch.tensor(0.1).log().item(), 0.1 * torch.tensor(100.0).log().item()
    beyond = drawn[drawn < low]
    assert len(beyond) / drawn.numel() == pytest.approx(0.25, abs=0.03)
    assert low - reach <= beyond.min() < low - 0.95 * reach
    plain = make_loss(pipeline, digits, margin=0.0, full_range_share=0.0)
    assert torch.stack([plain.draw_prompts(torch.Generator().manual_seed(i)) for i in range(500)]).min() > low


def test_a_taught_stage_resumes_and_says_what_it_attains(tmp_path):
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
        train_aligned(stopped, store, base.pipeline_folder, run_ends=ends, stop_at=5)
    train_aligned(stopped, store, base.pipeline_folder, run_ends=ends, resume=True)
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(stopped)[name]), name
    facts = ParameterUpdatePipeline.from_pretrained(whole.pipeline_folder).facts
    assert facts == pipeline.facts
    best, init = facts.alignment.attainable_range
    assert facts.alignment.teacher_runs == 4
    assert facts.attainable() == (min(best, facts.attainable_range[0]), facts.attainable_range[1])
    assert init == pytest.approx(facts.attainable_range[1], rel=0.05)


def test_what_cannot_teach_is_refused(digits, tiny_pipeline, tmp_path):
    config = replace(tiny_config(tmp_path), alignment=replace(SMALL, teacher_runs=4))
    with pytest.raises(ValueError, match=r"needs the runs' last checkpoints: give align\(\.\.\., run_ends=\)"):
        align(config, digits, tiny_pipeline, pairs_of(digits))
    cartpole = get_task("cartpole")
    with pytest.raises(ValueError, match="'cartpole' is neither a classification nor a regression"):
        align(replace(config, task="cartpole", metric="return"), cartpole, build_pipeline(cartpole), pairs_of(cartpole))
    assert not list(tmp_path.iterdir())
