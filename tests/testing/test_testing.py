"""check_task passes our own tasks, and each of its checks can fail."""

import urllib.error
import urllib.request

import huggingface_hub.constants
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from user_task_files import write_batchnorm_task

from g_pt.networks.metrics import Metric
from g_pt.permutations import PermutationSpec
from g_pt.tasks import get_task, register_task, registry, task_names
from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.examples import LabelledExamples, split_examples
from g_pt.tasks.mlp import mlp
from g_pt.tasks.regression import RegressionTask
from g_pt.tasks.supervised import SupervisedTask
from g_pt.tasks.toys import Moons, moons
from g_pt.testing import check_task
from rl_tasks.task import GymnasiumTask


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))


@pytest.fixture(scope="session")
def hub_answers() -> bool:
    try:
        urllib.request.urlopen(huggingface_hub.constants.ENDPOINT, timeout=5)
    except urllib.error.HTTPError:
        return True  # an answer all the same
    except OSError:
        return False
    return True


TASKS = [pytest.param(name, marks=[pytest.mark.slow] * (name == "acrobot")) for name in task_names()]


@pytest.mark.parametrize("name", TASKS)
def test_our_own_tasks_keep_their_promises(name, hub_answers, monkeypatch):
    if not hub_answers:  # asking it again and again would take half a minute
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    task = get_task(name)
    if isinstance(task, GymnasiumTask):
        check_policies(task)
        return
    if not isinstance(task, SupervisedTask):
        check_task(task)
        return
    try:
        splits = task.splits
    except FileNotFoundError as error:
        pytest.skip(str(error).partition(";")[0])
    # a few examples will do: the paper's CNN would take a minute on all of them
    task.splits = {split: LabelledExamples(data.inputs[:600], data.labels[:600]) for split, data in splits.items()}
    check_task(task)


def check_policies(task: GymnasiumTask) -> None:
    try:
        _ = task.facts
    except ValueError as error:
        pytest.skip(str(error).partition(";")[0])
    task.episodes = dict.fromkeys(task.episodes, 2)  # a few episodes will do
    check_task(task)


def test_a_task_with_batchnorm_and_dropout_keeps_them(tmp_path):
    check_task(get_task(write_batchnorm_task(tmp_path)))


class Points(Moons):
    """A healthy task that the broken ones derive from."""

    name = "points"
    widths = (2, 6, 2)


class Normed(ClassificationTask):
    """A healthy task with BatchNorm and all defaults but the spec."""

    name = "normed"
    splits = split_examples(*moons(300))

    def network(self):
        return nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))

    @property
    def permutations(self):
        names = ("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")
        axes = {"0.weight": ("hidden", None), **dict.fromkeys(names, ("hidden",))}
        return PermutationSpec(axes | {"3.weight": (None, "hidden"), "3.bias": (None,)})


class Numbers(RegressionTask):
    """A task that is not a classification, with all defaults."""

    name = "numbers"
    splits = split_examples(torch.linspace(-1, 1, 200)[:, None], torch.linspace(-1, 1, 200) ** 2)

    def network(self):
        return mlp((1, 6, 1))


@pytest.mark.parametrize("task", [Points, Normed, Numbers])
def test_healthy_tasks_pass(task):
    check_task(task())


def with_splits(**changed):
    examples = split_examples(*moons(300)) | changed
    return type("Broken", (Points,), {"splits": examples})


class ColonName(Points):
    name = "my:points"


class TakenName(Points):
    name = "digits"


class NeedsArguments(Points):
    def __init__(self, seed):
        self.seed = seed


class ChangingNetwork(Points):
    count = 0

    def network(self):
        ChangingNetwork.count += 1
        return mlp((2, 5 + ChangingNetwork.count, 2))


class GlobalInit(Points):
    def init(self, num_networks, generator):
        return torch.randn(num_networks, self.layout.num_params)


class SameInit(Points):
    def init(self, num_networks, generator):
        return super().init(1, generator).repeat(num_networks, 1)


class UnseededInit(Points):
    def init(self, num_networks, generator):
        return super().init(num_networks, torch.Generator().manual_seed(torch.Generator().seed()))


class DoubleInit(Points):
    def init(self, num_networks, generator):
        return super().init(num_networks, generator).double()


class BlindToSplits(Points):
    def evaluate(self, params, split="test"):
        super().evaluate(params, split)  # refuses what is wrong
        return super().evaluate(params, "test")


class AnySplit(Points):
    def evaluate(self, params, split="test"):
        return super().evaluate(params, split if split in self.splits else "test")


class MixedNetworks(Points):
    def evaluate(self, params, split="test"):
        return {name: values - values.mean() / 2 for name, values in super().evaluate(params, split).items()}


class OrderMatters(Points):
    def evaluate(self, params, split="test"):
        return {name: values + torch.arange(len(values)) for name, values in super().evaluate(params, split).items()}


class LacksAMetric(Points):
    def evaluate(self, params, split="test"):
        return {"loss": super().evaluate(params, split)["loss"]}


class SpoilsParameters(Points):
    def evaluate(self, params, split="test"):
        measured = super().evaluate(params, split)
        params[:, 0] += 1e-3
        return measured


class NaNMetric(Points):
    def evaluate(self, params, split="test"):
        return {name: values * torch.nan for name, values in super().evaluate(params, split).items()}


class WrongTransform(Points):
    metrics = {**Points.metrics, "error": Metric("error", "points", transform="log")}  # noqa: RUF012

    def measure(self, outputs, labels):
        return super().measure(outputs, labels) | {"error": outputs.mean(dim=(1, 2)) - 100}


class WrongDirection(Points):
    metrics = {**Points.metrics, "loss": Metric("loss", "nats", minimize=False)}  # noqa: RUF012


class WrongMetricName(Points):
    metrics = {**Points.metrics, "loss": Metric("los", "nats")}  # noqa: RUF012


class Ascends(Points):
    def losses(self, outputs, labels):
        return -super().losses(outputs, labels).clamp(max=5)


class SharesLosses(Points):
    def training_losses(self, tensors, examples, generator=None):
        losses = super().training_losses(tensors, examples, generator)
        return losses + 0.1 * losses.mean()


class UnusedParameter(Numbers):
    def network(self):
        network = super().network()
        network.register_parameter("spare", nn.Parameter(torch.zeros(3)))
        return network


class StoppedGradient(Points):
    def forward(self, tensors, inputs):
        halved = {**tensors, "fc1.bias": 0.5 * tensors["fc1.bias"] + 0.5 * tensors["fc1.bias"].detach()}
        return super().forward(halved, inputs)


class OtherOutputs(Points):
    def forward(self, tensors, inputs):
        return 1.01 * super().forward(tensors, inputs)


class DependsOnTheBatch(Points):
    def forward(self, tensors, inputs):
        logits = super().forward(tensors, inputs)
        return logits - logits.mean(dim=2, keepdim=True)


class WrongPermutations(Points):
    @property
    def permutations(self):
        free = {name: (None,) * len(shape) for name, shape in zip(self.layout.names, self.layout.shapes, strict=True)}
        return PermutationSpec(free | {"fc1.weight": ("hidden", None), "fc1.bias": ("hidden",)})


class MovesWeights(Points):
    def recalibrate(self, params):
        return params * 0.99


class RecalibratesInPlace(Normed):
    def recalibrate(self, params):
        params[:] = super().recalibrate(params + 0)
        params[:, 0] += 1e-3
        return params.clone()


class KeepsStatistics(Normed):
    def recalibrate(self, params):
        return params


class ForgetsTrainingMode(Normed):
    """An own forward that reads the running statistics in training too."""

    def forward(self, tensors, inputs):
        hidden = inputs @ tensors["0.weight"].mT + tensors["0.bias"][:, None]  # (B, N, 6)
        mean, var, scale, shift = (
            tensors[f"1.{name}"][:, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        hidden = F.relu((hidden - mean) / (var + 1e-5).sqrt() * scale + shift)
        return (hidden @ tensors["3.weight"].mT + tensors["3.bias"][:, None]).mT


HALF = split_examples(*moons(300))
BROKEN = [
    (ColonName, "string without colon .* got 'my:points'"),
    (TakenName, r"'digits' belongs to g_pt\.tasks\.digits:Digits: change `name`"),
    (lambda: NeedsArguments(0), "must need no arguments .*'seed'"),
    (ChangingNetwork, "always be the same architecture"),
    (GlobalInit, "init must not draw from the global generator"),
    (UnseededInit, "the same seed, the same networks"),
    (SameInit, "init must draw every network anew: of 6, 2 differ"),
    (DoubleInit, "init must be float32, got torch.float64"),
    (BlindToSplits, "does evaluate look at `split`"),
    (AnySplit, "must refuse a split that does not exist"),
    (MixedNetworks, "loss on train: each network alone"),
    (OrderMatters, "loss on train: networks in reverse order"),
    (LacksAMetric, r"must give \['error', 'loss'\], not \['loss'\]"),
    (SpoilsParameters, "must be the same every time"),
    (NaNMetric, "loss on train must be finite, got"),
    (WrongTransform, "error must be positive for transform 'log', got -"),
    (WrongDirection, "changes loss by -.* but minimize is False"),
    (WrongMetricName, r"metrics\['loss'\] must have that name, got 'los'"),
    (Ascends, "changes loss by \\+"),
    (SharesLosses, "must not depend on 'fc1.weight' of another"),
    (UnusedParameter, "'spare' has no part in the training loss"),
    (StoppedGradient, "gradient of 'fc1.bias' against that of network"),
    (OtherOutputs, "against those of network"),
    (DependsOnTheBatch, "measured in parts"),
    (WrongPermutations, "correct the axes, or fix them with None; outputs differ"),
    (MovesWeights, "recalibrate must change nothing a second time"),
    (RecalibratesInPlace, "recalibrate must return new parameters"),
    (KeepsStatistics, "must estimate .*'1.running_mean'.* anew"),
    (ForgetsTrainingMode, "training_losses against network"),
    (with_splits(test=HALF["train"]), "'test' must hold other examples than the training split"),
    (with_splits(validation=LabelledExamples(torch.full((9, 2), torch.nan), torch.zeros(9).long())), "finite"),
    (
        with_splits(test=LabelledExamples(HALF["test"].inputs, HALF["test"].labels + 1)),
        "int64 from 0 to 1",
    ),
    (with_splits(more=HALF["test"]), r"splits must be \['train', 'validation', 'test'\], got"),
]


def test_a_broken_promise_is_found(subtests):
    for make, message in BROKEN:
        with subtests.test(message), pytest.raises(AssertionError, match=message):
            check_task(make())


def test_a_registered_class_may_be_checked_under_its_name():
    register_task("points", f"{__name__}:Points")
    check_task(Points())
