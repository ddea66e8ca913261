"""What `transformers.Trainer` trains is recorded by a callback."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from checkpoints_dataset import CheckpointRecorder, CheckpointStore


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "checkpoints_dataset.trainer_callback", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'RecorderCallback needs transformers: pip install "g-pt\[trainer\]"'):
        importlib.import_module("checkpoints_dataset.trainer_callback")


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x, labels=None):
        predicted = self.layer(x)[:, 0]
        return {"loss": (predicted - labels).square().mean(), "logits": predicted}


def examples(num, seed):
    x = torch.randn(num, 3, generator=torch.Generator().manual_seed(seed))
    return [{"x": row, "labels": row.sum()} for row in x]


def trainer(folder: Path, recorder: CheckpointRecorder, seed: int, **options):
    transformers = pytest.importorskip("transformers")
    from checkpoints_dataset.trainer_callback import RecorderCallback

    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=30, learning_rate=0.1, seed=seed, eval_strategy="steps", eval_steps=10,
        eval_on_start=True, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, logging_strategy="no",
        per_device_train_batch_size=16,
    )  # fmt: skip
    torch.manual_seed(seed)
    return transformers.Trainer(
        Network(), arguments, train_dataset=examples(64, 0), eval_dataset=examples(64, 1),
        callbacks=[RecorderCallback(recorder, **options)],
    )  # fmt: skip


def test_each_training_is_a_run_and_a_broken_one_is_none(tmp_path):
    recorder = CheckpointRecorder(tmp_path / "made", "linear")
    for seed in range(2):
        trained = trainer(tmp_path / "out", recorder, seed, note="mine")
        first = trained.model.layer.weight.detach().flatten().clone()
        trained.train()
    broken = trainer(tmp_path / "out", recorder, 2)
    broken.train_dataset = [*examples(16, 0), *[{"x": torch.zeros(2), "labels": torch.zeros(())}] * 48]
    with pytest.raises((RuntimeError, ValueError)):
        broken.train()
    recorder.close()
    store = CheckpointStore(tmp_path / "made")
    assert [r.metadata for r in store.runs] == [{"learning_rate": 0.1, "seed": s, "note": "mine"} for s in range(2)]
    assert store.step.tolist() == [0, 10, 20, 30] * 2
    params = store.params([*range(8)])
    assert torch.equal(params[4, :3], first), "the first checkpoint is the network before training"
    assert torch.equal(params[7, :3], trained.model.layer.weight.detach().flatten())
    evaluated = examples(64, 1)
    x = torch.stack([e["x"] for e in evaluated])
    expected = (x @ params[7, :3] + params[7, 3] - x.sum(dim=1)).square().mean()
    assert store.metrics["loss"][7] == pytest.approx(expected.item(), rel=1e-4)


def test_a_metric_that_the_trainer_does_not_measure_is_named(tmp_path):
    recorder = CheckpointRecorder(tmp_path / "made", "linear")
    with pytest.raises(ValueError, match=r"measured no \['eval_accuracy'\], only \[.*'eval_loss'"):
        trainer(tmp_path / "out", recorder, 0, metrics={"loss": "eval_accuracy"}).train()
    assert not list((tmp_path / "made").glob("shard*"))
