"""Recurrent layers in parts equal PyTorch's fused ones; recurrent classifiers go from a harvest to an update."""

import itertools
from dataclasses import replace

import pytest
import torch
from tiny_training import tiny_config
from torch import nn

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.facts import fit_normalizer, training_facts
from checkpoints_dataset.harvest import harvest
from checkpoints_dataset.pair_sampler import PairSampler
from checkpoints_dataset.store import CheckpointStore
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.tasks import get_task, register_task, registry
from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.examples import split_examples
from g_pt.tasks.recurrent import unfused_recurrence
from g_pt.training.loop import fit

KINDS = [
    (nn.LSTM, {}),
    (nn.GRU, {}),
    (nn.RNN, {}),
    (nn.RNN, {"nonlinearity": "relu"}),
    pytest.param(nn.LSTM, {"proj_size": 3}, marks=pytest.mark.filterwarnings("ignore:LSTM with projections")),
]


def flat(value):
    """All tensors of nested tuples."""
    return [value] if isinstance(value, torch.Tensor) else [tensor for part in value for tensor in flat(part)]


def assert_same(module, *inputs):
    """Outputs, states and gradients are those of PyTorch."""
    wanted = flat(module(*inputs))
    with unfused_recurrence():
        got = flat(module(*inputs))
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 1e-6
    weights = list(module.parameters())
    grads = [torch.autograd.grad(sum(t.square().sum() for t in outputs), weights) for outputs in (got, wanted)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_layers_equal_those_of_pytorch(kind, options, subtests):
    torch.manual_seed(0)
    for layers, first, both, bias in itertools.product((1, 3), (True, False), (True, False), (True, False)):
        with subtests.test(layers=layers, batch_first=first, bidirectional=both, bias=bias):
            module = kind(4, 6, layers, batch_first=first, bidirectional=both, bias=bias, **options)
            inputs = torch.randn(5, 3, 4)
            assert_same(module, inputs)
            state = torch.utils._pytree.tree_map(torch.Tensor.detach, module(inputs)[1])
            assert_same(module, inputs, state)
            assert_same(module, inputs[0])  # one sequence without a batch


def test_cells_equal_those_of_pytorch():
    torch.manual_seed(0)
    for kind, bias in itertools.product((nn.LSTMCell, nn.GRUCell, nn.RNNCell), (True, False)):
        cell, inputs, hidden = kind(4, 6, bias=bias), torch.randn(3, 4), torch.randn(3, 6)
        assert_same(cell, inputs)
        assert_same(cell, inputs, (hidden, -hidden) if kind is nn.LSTMCell else hidden)
    assert_same(nn.RNNCell(4, 6, nonlinearity="relu"), inputs, hidden)


def test_dropout_lies_between_the_layers_and_is_drawn_for_each_network():
    torch.manual_seed(0)
    module, inputs = nn.LSTM(4, 30, 2, dropout=0.5), torch.randn(5, 3, 4)
    single = nn.LSTM(4, 30, 1, dropout=0.0)
    weights = {name: torch.stack([tensor.detach()] * 2) for name, tensor in module.named_parameters()}
    with unfused_recurrence():
        outputs = torch.vmap(lambda own: torch.func.functional_call(module, own, (inputs,))[0], randomness="different")(
            weights
        )
        assert not torch.equal(outputs[0], outputs[1])
        module.eval()
        assert torch.equal(module(inputs)[0], module(inputs)[0])
        assert torch.equal(single(inputs)[0], single(inputs)[0])


class Sequences(ClassificationTask):
    """Which of two tokens is the more frequent one?"""

    name = "sequences"

    def __init__(self):
        tokens = torch.randint(0, 2, (300, 7), generator=torch.Generator().manual_seed(0))
        self.splits = split_examples(tokens, (tokens.sum(dim=1) > 3).long())

    def network(self):
        return Classifier()


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(2, 3), nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[0][:, -1])


def test_an_lstm_classifier_goes_from_a_harvest_to_an_update(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    register_task("sequences", f"{__name__}:Sequences")
    task = get_task("sequences")
    harvest(
        HarvestConfig(task="sequences", num_runs=40, num_steps=30, num_checkpoints=5, runs_per_shard=40, batch_size=64),
        tmp_path / "made",
    )
    store = CheckpointStore(tmp_path / "made")
    assert store.metrics["loss"][store.step == 30].mean() < 0.95 * store.metrics["loss"][store.step == 0].mean()
    config = tiny_config(tmp_path / "run", num_steps=1)
    config = replace(
        config,
        progress=replace(config.progress, evaluate_every=1, save_every=1),
        optimizer=replace(config.optimizer, warmup_steps=0),
    )
    pairs = PairSampler(store, "loss", batch_size=8, seed=0)
    fit(config, task, pairs.batch, fit_normalizer(store, "global"), training_facts(store, task, "loss"))
    pipeline = ParameterUpdatePipeline.from_pretrained(config.pipeline_folder)
    starts = task.init(3, torch.Generator().manual_seed(0))
    updated = pipeline(
        starts, 0.4, starting_metric=task.evaluate(starts)["loss"], generator=torch.Generator().manual_seed(0)
    ).params
    assert updated.isfinite().all()
    assert task.evaluate(updated)["loss"].shape == (3,)
