"""Networks of all kinds that people bring: many at once compute what each computes alone, or one sentence says no."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.examples import LabelledExamples, split_examples
from g_pt.tasks.regression import RegressionTask
from g_pt.testing import check_task
from g_pt.testing.task_checks import check_evaluate
from rl_tasks.task import GymnasiumTask


def points(num=240, width=4):
    inputs = torch.randn(num, width, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs[:, 0] * inputs[:, 1] > 0).long()


def classifier(make_network, inputs=None, labels=None):
    """A task of networks made by a function."""
    given, answers = points()
    splits = split_examples(given if inputs is None else inputs, answers if labels is None else labels)
    members = {"name": "own", "splits": splits, "network": lambda self: make_network()}
    return type("Own", (ClassificationTask,), members)()


class Casting(nn.Module):
    """Computes in a precision of its own, whatever comes in."""

    def __init__(self, dtype):
        super().__init__()
        self.fc1, self.fc2, self.dtype = nn.Linear(4, 6), nn.Linear(6, 2), dtype
        self.to(dtype)

    def forward(self, x):
        return self.fc2(self.fc1(x.to(self.dtype)).tanh())


class FloatInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        scale = torch.full((6,), 0.5, dtype=torch.float32)
        return self.fc2((self.fc1(x.float()).tanh() * scale).to(torch.float32))


class Constant(nn.Module):
    """A mixture of inputs that is neither a parameter nor a buffer."""

    def __init__(self):
        super().__init__()
        self.mix, self.layers = {"of inputs": torch.eye(4).roll(1, 0)}, layers()

    def forward(self, x):
        return self.layers(x @ self.mix["of inputs"])


class Guarded(nn.Module):
    """Asks whether all is well, on the way."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        assert torch.isfinite(x).all()
        hidden = self.fc1(x)
        if torch.isnan(hidden).any():
            hidden = torch.nan_to_num(hidden)
        if not torch.isfinite(hidden).all():
            raise ValueError("too large")
        return self.fc2(hidden.tanh())


class Autocast(FloatInside):
    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return super().forward(x)


class TiedAutoencoder(nn.Module):
    """The decoder's first layer is the encoder's, under a second name."""

    def __init__(self):
        super().__init__()
        self.encoder, self.middle, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.decoder(self.middle(self.encoder(x).tanh()).tanh()))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = self.second = nn.Linear(4, 4)
        self.norm = self.again = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.again(self.second(self.first(x).relu())).relu())


def weight_normed():
    with pytest.warns(FutureWarning):
        return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 2))


def lazily():
    module = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.LazyLinear(2))
    module(torch.zeros(2, 4))
    return module


def layers():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


NETWORKS = {
    "float64": lambda: layers().double(),
    "bfloat16": lambda: layers().bfloat16(),
    "half": lambda: layers().half(),
    "casts to float64": lambda: Casting(torch.float64),
    "casts to bfloat16": lambda: Casting(torch.bfloat16),
    "x.float() inside": FloatInside,
    "a constant beside the parameters": Constant,
    "autocast inside": Autocast,
    "asserts and guards": Guarded,
    "DataParallel": lambda: nn.DataParallel(layers()),
    "DataParallel inside": lambda: nn.Sequential(nn.DataParallel(layers()), nn.Identity()),
    "compiled": lambda: torch.compile(layers()),
    "compiled inside": lambda: nn.Sequential(torch.compile(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 2)),
    "tied weights": TiedAutoencoder,
    "shared layers with BatchNorm": Shared,
    "old weight_norm": weight_normed,
    "new weight_norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 2)
    ),
    "lazy, run once": lazily,
    "LSTM": lambda: Reader(nn.LSTM(1, 5, batch_first=True)),
    "deep LSTM": lambda: Reader(nn.LSTM(1, 3, 2, batch_first=True, bidirectional=True)),
    "projected LSTM": lambda: Reader(nn.LSTM(1, 5, batch_first=True, proj_size=3)),
    "GRU": lambda: Reader(nn.GRU(1, 5, batch_first=True)),
    "RNN": lambda: Reader(nn.RNN(1, 5, batch_first=True, nonlinearity="relu")),
    "LSTMCell": lambda: ByCell(nn.LSTMCell(1, 5)),
    "GRUCell": lambda: ByCell(nn.GRUCell(1, 5)),
    "RNNCell": lambda: ByCell(nn.RNNCell(1, 5)),
}


class Reader(nn.Module):
    """Reads the four numbers one after the other."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn, self.head = rnn, nn.LazyLinear(2)
        self(torch.zeros(2, 4))

    def forward(self, x):
        return self.head(self.rnn(x[..., None])[0][:, -1])


class ByCell(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell, self.head = cell, nn.Linear(5, 2)

    def forward(self, x):
        state = None
        for column in x.unbind(1):
            state = self.cell(column[:, None], state)
        return self.head(state[0] if isinstance(state, tuple) else state)


@pytest.mark.slow
def test_networks_of_all_kinds_keep_every_promise(subtests):
    for name, make_network in NETWORKS.items():
        with subtests.test(name):
            task = classifier(make_network)
            assert not any("module" in name or "_orig_mod" in name for name in task.layout.names)
            check_task(task)


def test_recurrent_classifiers_have_their_hidden_units_as_a_group():
    task = classifier(NETWORKS["LSTM"])
    assert list(task.permutations.group_sizes(task.layout).values()) == [5]


class Lookup(nn.Module):
    """Takes tokens alone: an embedding."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(7, 5), nn.Linear(5, 2)

    def forward(self, tokens):
        return self.head(self.table(tokens).mean(1))


TOKENS = torch.randint(0, 7, (200, 6), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8, torch.float32, torch.float64])
def test_tokens_reach_an_embedding_as_integers_whatever_they_were_stored_as(dtype):
    task = classifier(Lookup, TOKENS.to(dtype), (TOKENS[:, 0] > 3).long())
    assert task.input_dtype == torch.int64
    check_task(task)
    in_order = task.init(2, torch.Generator().manual_seed(0))
    row = task.layout.unflatten(in_order[0])
    inputs = task.examples("test").inputs
    outputs = task.forward(task.layout.unflatten(in_order), inputs)
    wanted = F.embedding(inputs.long(), row["table.weight"]).mean(1) @ row["head.weight"].T + row["head.bias"]
    torch.testing.assert_close(outputs[0].T, wanted)


def test_whole_numbers_reach_a_linear_layer_as_floats():
    task = classifier(lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), TOKENS, TOKENS[:, 0] % 2)
    assert task.input_dtype == torch.float32
    check_task(task)
    assert split_examples(TOKENS, TOKENS[:, 0])["train"].inputs.dtype == torch.int64
    assert split_examples(TOKENS.to(torch.uint8), TOKENS[:, 0])["train"].inputs.dtype == torch.float32
    assert split_examples(TOKENS.tolist(), TOKENS[:, 0])["train"].inputs.dtype == torch.int64


def test_inputs_of_another_precision_are_cast():
    task = classifier(layers)
    task.splits = {s: LabelledExamples(d.inputs.double(), d.labels.int()) for s, d in task.splits.items()}
    check_task(task)


LABELS = {
    "floats that are whole": lambda labels: labels.double(),
    "booleans": lambda labels: labels.bool(),
    "a column": lambda labels: labels[:, None],
    "a column of floats": lambda labels: labels[:, None].float(),
    "small integers": lambda labels: labels.to(torch.uint8),
}


def test_labels_that_mean_classes_are_taken_as_classes(subtests):
    wanted = classifier(layers).examples("train").labels
    for name, changed in LABELS.items():
        with subtests.test(name):
            task = classifier(layers, labels=changed(points()[1]))
            assert torch.equal(task.examples("train").labels, wanted)
            check_evaluate(task)


REFUSED_LABELS = {
    r"int64 from 0 to 1, since network\(\) gives 2 logits, got 1 to 2: subtract 1$": lambda labels: labels + 1,
    r"int64 from 0 to 1, .*got -1 to 1$": lambda labels: 2 * labels - 1,
    r"whole numbers, one per example, got \(144,\) torch.float32 such as": lambda labels: labels + 0.5,
    r"whole numbers, .* for other numbers derive from RegressionTask": lambda labels: labels / 3,
    r"whole numbers, one per example, got \(144, 2\)": lambda labels: F.one_hot(labels, 2),
}


def test_labels_that_mean_no_classes_are_refused_before_a_step_is_taken(subtests):
    for message, changed in REFUSED_LABELS.items():
        with subtests.test(message):
            task = classifier(layers, labels=changed(points()[1]))
            tensors = task.layout.unflatten(task.init(2, torch.Generator().manual_seed(0)))
            for call in (lambda t=task, p=tensors: t.training_losses(p, torch.arange(4)), lambda t=task: check_task(t)):
                with pytest.raises((ValueError, AssertionError), match=message):
                    call()


def test_whole_numbers_are_labels_of_a_regression():
    inputs, labels = points()
    members = {"name": "counts", "splits": split_examples(inputs, labels), "network": lambda _: nn.Linear(4, 1)}
    check_task(type("Counts", (RegressionTask,), members)())


def test_words_are_refused_as_examples():
    for inputs, labels in ((["a", "b"] * 5, [0, 1] * 5), ([[0.0]] * 10, ["cat", "dog"] * 5)):
        with pytest.raises(ValueError, match=r"(inputs|labels) must be an array of numbers"):
            split_examples(inputs, labels)


REFUSED = {
    "'0.weight' is lazy: call the module once": lambda: nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)),
    "not scripted": lambda: torch.jit.script(layers()),
    "must return a torch.nn.Module, got function": lambda: F.relu,
    "'weight' is complex": lambda: Spectrum(),
    "packed sequences": lambda: Packing(),
}


class Spectrum(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)
        self.weight = nn.Parameter(torch.randn(2, 4, dtype=torch.complex64))


class Packing(Reader):
    def __init__(self):
        super().__init__(nn.LSTM(1, 3, batch_first=True))

    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(x[..., None], torch.full((len(x),), 4), batch_first=True)
        return self.head(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0][:, -1])


def test_networks_that_cannot_be_harvested_are_refused_in_a_sentence(subtests):
    for message, make_network in REFUSED.items():
        with subtests.test(message):
            task = classifier(make_network)
            with pytest.raises(ValueError, match=message) as caught:
                task.evaluate(task.init(2, torch.Generator().manual_seed(0)))
            assert "\n" not in str(caught.value)


class MountainCar(GymnasiumTask):
    """Nobody reaches the top by chance: every return is -200."""

    name = "own-mountain-car"
    environment_id = "MountainCar-v0"
    episodes = {"train": 1, "validation": 2, "test": 2}  # noqa: RUF012

    def network(self):
        return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))


def test_policies_that_all_fail_alike_are_no_broken_task():
    check_task(MountainCar())


def test_the_distance_of_outputs_has_a_gradient_through_batchnorm_and_recurrent_layers(subtests):
    normed = lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))  # noqa: E731
    for name, make_network in {"BatchNorm": normed, "LSTM": NETWORKS["LSTM"]}.items():
        with subtests.test(name):
            task = classifier(make_network)
            params, others = (task.init(2, torch.Generator().manual_seed(s)) for s in (0, 1))
            params.requires_grad_()
            distances = task.output_distance(params, others, torch.arange(9))
            (grad,) = torch.autograd.grad(distances.sum(), params)
            by_name = task.layout.unflatten(grad)
            assert all((by_name[trained] != 0).any() for trained in task.trained_names)
            inputs = task.examples("train").inputs[:9]
            with torch.no_grad():
                outputs = [task.forward(task.layout.unflatten(p), inputs) for p in (params, others)]
            torch.testing.assert_close(distances, (outputs[0] - outputs[1]).square().flatten(1).mean(1))
