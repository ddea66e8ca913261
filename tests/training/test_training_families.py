"""One model for many sizes, from the harvest to the pipeline."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from in_process import run_in_process

from checkpoints_dataset.family_store import FAMILY_FILE, open_family
from checkpoints_dataset.format import StoreError
from g_pt import ParameterUpdatePipeline
from g_pt.commands import harvest, train
from g_pt.tasks import get_family
from g_pt.training.config import FamilyConfig, TrainConfig
from g_pt.training.families import FamilyTraining, draw_seen, draw_unseen

TASK, SIZES = "digits[64-**-10]", ["16", "6,5"]
HARVEST = ["--num-runs", "20", "--num-steps", "12", "--num-checkpoints", "4", "--runs-per-shard", "20"]
TRAIN = {
    "model.width": 16, "model.num-layers": 1, "model.num-heads": 2, "pairs.batch-size": 8, "optimizer.num-steps": 6,
    "optimizer.mixed-precision": "no", "optimizer.cpu-threads": 1, "alignment.num-steps": 8, "alignment.batch-size": 4,
    "alignment.num-examples": 16, "alignment.recursive-share": 0.5, "family.held-out": "9", "progress.save-every": 4,
    "progress.evaluate-every": 4, "progress.num-networks": 2, "progress.num-prompts": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("family")


@pytest.fixture(scope="module")
def data(folder) -> Path:
    harvest.main(["--task", TASK, "--hidden", *SIZES, *HARVEST, "--out", str(folder / "data")])
    return folder / "data"


def train_model(data: Path, output: Path, *flags: str) -> ParameterUpdatePipeline:
    AcceleratorState._reset_state(True)
    settings = [word for name, value in TRAIN.items() for word in (f"--{name}", str(value))]
    train.main(["--task", TASK, "--dataset", str(data), "--output", str(output), *settings, *flags])
    return ParameterUpdatePipeline.from_pretrained(output / "pipeline")


def test_a_harvest_of_sizes_is_a_dataset_for_each_and_grows(data, folder, capsys):
    stores = open_family(data, TASK)
    assert list(stores) == [(16,), (6, 5)]
    assert {store.header.task for store in stores.values()} == {"digits[64-16-10]", "digits[64-6-5-10]"}
    before = (data / "16" / "dataset.json").stat().st_mtime_ns
    grown = shutil.copytree(data, folder / "grown")
    flags = ["--task", TASK, "--hidden", "7", "16", *HARVEST, "--out", str(grown), "--json"]
    made = json.loads(run_in_process(harvest.main, flags, capsys).stdout)
    assert [member["task"] for member in made["members"]] == ["digits[64-7-10]", "digits[64-16-10]"]
    assert list(open_family(grown, TASK)) == [(16,), (6, 5), (7,)]
    assert (data / "16" / "dataset.json").stat().st_mtime_ns == before
    shutil.rmtree(grown / "7")
    shutil.copytree(grown / "16", grown / "7")
    with pytest.raises(StoreError, match=r"digits\[64-16-10\]"):  # networks of another size in its folder
        open_family(grown, TASK)
    (grown / FAMILY_FILE).write_text('{"task": "digits[64-**-10]", "members": ["../16"]}')
    with pytest.raises(StoreError, match="widths joined by hyphens"):
        open_family(grown, TASK)


def test_wrong_harvests_are_refused(data, tmp_path, capsys, subtests):
    (tmp_path / "notes.txt").write_text("mine")
    for flags, words in (
        (["--task", TASK], "--hidden 8 16 32"),
        (["--task", "digits", "--hidden", "8"], "many sizes"),
        (["--task", "digits[64-*-10]", "--hidden", "8,8"], "1 hidden layers"),
        (["--task", "digits[64-*-10]", "--hidden", "8", "--out", str(data)], "digits[64-**-10]"),
        (["--task", TASK, "--hidden", "8", "--out", str(tmp_path)], "holds other files"),
    ):
        done = run_in_process(harvest.main, ["--out", str(tmp_path / "new"), *flags], capsys)
        with subtests.test(words=words):
            assert done.returncode == 1
            assert words in done.stderr


@pytest.mark.slow
def test_training_serves_sizes_logs_them_and_resumes_exactly(data, folder):
    pipeline = train_model(data, folder / "out")
    facts = pipeline.facts
    assert [size.hidden for size in facts.sizes] == [(16,), (6, 5)]
    assert facts.dataset.num_runs == 36
    assert facts.attainable() == facts.of_size((16,)).attainable()
    lines = [json.loads(line) for line in (folder / "out/alignment/log.jsonl").read_text().splitlines()]
    assert set(lines[-1]["sizes"]) == {"16", "6-5"}
    start = pipeline.member((9,)).task.init(2, torch.Generator().manual_seed(0))
    wanted = pipeline.member((9,))(start, 2.0, generator=1).params
    assert not torch.equal(wanted, start)
    shutil.rmtree(folder / "out/alignment/checkpoints/step-00000008")
    shutil.rmtree(folder / "out/pipeline")
    again = train_model(data, folder / "out", "--resume")
    for name, tensor in pipeline.transformer.state_dict().items():
        assert torch.equal(tensor, again.transformer.state_dict()[name]), name
    assert torch.equal(again.member((9,))(start, 2.0, generator=1).params, wanted)


def test_sizes_are_drawn_by_their_layers_and_held_out_ones_never():
    sizes = [(8,), (16,), (8, 8), (8, 8, 8)]
    options = FamilyConfig(layer_weights=(2.0, 1.0, 0.0))
    drawn = [draw_seen(sizes, options, 0, step) for step in range(3000)]
    shares = [drawn.count(size) / 3000 for size in sizes]
    assert shares == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=0.035)  # four standard deviations
    assert drawn[:50] == [draw_seen(sizes, options, 0, step) for step in range(50)]
    ranges = FamilyConfig(width_range=(6, 9), deep_width_range=(3, 4), held_out=("7", "3,4"))
    training = FamilyTraining(TrainConfig(family=ranges), get_family(TASK), dict.fromkeys([(8,), (8, 8)]), None)
    generator = torch.Generator().manual_seed(0)
    unseen = {draw_unseen(training, generator) for _ in range(300)}
    assert unseen == {(6,), (8,), (9,), (3, 3), (4, 3), (4, 4)}


@pytest.mark.slow
def test_a_family_that_begins_with_a_model_of_one_size_samples_as_it_does(data, folder):
    flags = ["--family.start-from", "digits-loss", "--optimizer.num-steps", "1", "--optimizer.learning-rate", "0"]
    wide = ["--model.width", "128", "--model.num-layers", "4", "--model.num-heads", "4", "--alignment.num-steps", "0"]
    pipeline, trained = train_model(data, folder / "begun", *flags, *wide), "digits-loss"
    start = get_family(TASK).member((16,)).init(3, torch.Generator().manual_seed(0))
    expected = ParameterUpdatePipeline.from_pretrained(trained)(start, 0.5, num_inference_steps=2, generator=1).params
    found = pipeline(start, 0.5, num_inference_steps=2, generator=1).params
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
