"""A small transformer on tokens, the file of docs/extending.md made smaller: one update does what training does."""

import pytest
import torch
from documents import ROOT, blocks_of

from g_pt import ParameterUpdatePipeline, get_task
from g_pt.commands import harvest, train
from g_pt.permutations import AxisBlock
from g_pt.tasks import registry

HARVEST = "--num-runs 24 --num-steps 100 --num-checkpoints 8 --rule adam --rule.learning-rate 0.02"
TRAIN = (
    "--model.width 32 --model.num-layers 2 --model.edge-width 16 --pairs.batch-size 16 --optimizer.num-steps 500 "
    "--optimizer.warmup-steps 30 --optimizer.ema-decay 0.97 --optimizer.mixed-precision no --optimizer.cpu-threads 1 "
    "--alignment.num-steps 200 "
    "--alignment.batch-size 16 --alignment.num-examples 64 --alignment.max-sampling-steps 2 "
    "--alignment.num-inference-steps 2 --alignment.learning-rate 3e-3 --alignment.ema-decay 0.95 "
    "--alignment.diffusion-weight 0 --progress.evaluate-every 0 --progress.save-every 0"
)


@pytest.fixture
def target(tmp_path, monkeypatch):
    """The page's task with networks of width 8 on 6 tokens."""
    monkeypatch.chdir(tmp_path)
    (text,) = (b.text for b in blocks_of(ROOT / "docs" / "extending.md") if b.file == "my_transformer.py")
    sizes = "LENGTH, WIDTH, HEADS = 15, 8, 16, 2"
    assert sizes in text
    text = text.replace(sizes, "LENGTH, WIDTH, HEADS = 15, 6, 8, 2").replace('"majority"', '"tiny-majority"')
    (tmp_path / "tiny.py").write_text(text)
    yield "tiny.py:Majority"
    registry._TASKS.pop("tiny-majority")


def test_the_residual_stream_is_one_group_and_heads_keep_their_place(target):
    axes = get_task(target).permutations.axes
    both, values = (tuple(AxisBlock(f"block.query.units.{kind}.head{h}", 4) for h in range(2)) for kind in range(2))
    assert axes["embed.weight"] == axes["position"] == axes["head.weight"] == (None, "embed.units")
    assert axes["block.query.weight"] == axes["block.key.weight"] == (both, "embed.units")
    assert axes["block.value.weight"] == (values, "embed.units")
    assert axes["block.out.weight"] == ("embed.units", values)


def test_attention_of_stacked_networks_is_that_of_each_and_vmap_warns_of_nothing(target, recwarn):
    task = get_task(target)
    params = task.init(3, torch.Generator().manual_seed(0))
    inputs = task.splits["test"].inputs[:5]
    outputs = task.forward(task.layout.unflatten(params), inputs)
    assert not [str(w.message) for w in recwarn if "performance drop" in str(w.message)]
    for row, found in zip(params, outputs, strict=True):
        alone = torch.func.functional_call(task.template, task.layout.unflatten(row), (inputs,))
        torch.testing.assert_close(found.T, alone)


@pytest.mark.slow
def test_one_update_closes_more_than_half_of_the_gap_and_prompts_are_followed(target):
    """The first stage teaches what a prompt is: after 20 steps of it, all prompts are answered alike."""
    harvest.main(["--task", target, "--out", "runs", *HARVEST.split()])
    train.main(["--task", target, "--dataset", "runs", "--output", "out", *TRAIN.split()])
    task, pipeline = get_task(target), ParameterUpdatePipeline.from_pretrained("out/pipeline")
    starts = task.init(32, torch.Generator().manual_seed(5))
    best, init = sorted(pipeline.facts.attainable())
    before = task.evaluate(starts, "test")["loss"].mean()
    after = []
    for prompt in (best, (best * init) ** 0.5, init):
        updated = pipeline(starts, prompted_metric=prompt, generator=torch.Generator().manual_seed(1)).params
        after.append(task.evaluate(updated, "test")["loss"].mean())
    assert after[0] < (before + best) / 2
    assert after[0] < after[1] < after[2]
    assert after[2] - after[0] > (init - best) / 2
