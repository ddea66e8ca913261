"""Facts of the five models that the reference released which their weights do not hold.

Numbers are those of the reference's configurations (heads, normalisation) and, marked so in `source`, what can be read
off the paper's figures 1, 4 and 5, to about one percent of an axis: the data sets themselves say it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

from g_pt.networks.training_facts import TrainedRuns, TrainingFacts

FIGURES = "read off figures 1, 4 and 5 of Peebles et al. 2022, and its configurations; not measured on the data"


@dataclass(frozen=True)
class ReferenceData:
    """One of the reference's three checkpoint data sets.

    Attributes:
        task: of ours, with the same networks.
        tensor_sizes: numbers of parameters of the networks' tensors.
        coefficient: normalised parameters are raw ones times it (`openai_coeff`).
        num_test_runs: the last runs by name are the test split.
        steps_per_epoch: of a run; checkpoints are numbered by epoch and step in it. None where only by step.
    """

    task: str
    tensor_sizes: tuple[int, ...]
    coefficient: float
    num_test_runs: int
    steps_per_epoch: int | None


DATA = (
    ReferenceData("reference-mnist", (7840, 10, 100, 10), 4.185, 500, 468),
    ReferenceData("reference-cifar10", (432, 4608, 320, 10), 1.646, 2050, 390),
    ReferenceData("reference-cartpole", (1, 128, 32, 1024, 32, 32, 1), 2.06, 2050, None),
)


@dataclass(frozen=True)
class ReleasedModel:
    """One of the five models.

    Attributes:
        task: of ours.
        metric: that it is prompted by.
        width: of its tokens; tells it from other models in a file of the same name.
        num_heads: which no tensor says.
        prompt_range: lowest and highest metric in its data, roughly.
        attainable_range: metric at the end of a run and at its start, roughly.
        trained_runs: metrics at the end of a run, roughly.
    """

    task: str
    metric: str
    width: int
    num_heads: int
    prompt_range: tuple[float, float]
    attainable_range: tuple[float, float]
    trained_runs: dict[str, float]

    def facts(self) -> TrainingFacts:
        """Facts of the training data for the pipeline."""
        runs = TrainedRuns({f"test_{name}": value for name, value in self.trained_runs.items()})
        return TrainingFacts(self.prompt_range, self.attainable_range, runs, source=FIGURES)


MNIST_RUNS, CIFAR10_RUNS = {"loss": 0.19, "error": 5.0}, {"loss": 1.2, "error": 39.8}
RELEASED: dict[str, ReleasedModel] = {
    "mnist_loss": ReleasedModel("reference-mnist", "loss", 1536, 16, (0.165, 2.3), (0.19, 2.3), MNIST_RUNS),
    "mnist_error": ReleasedModel("reference-mnist", "error", 1536, 16, (5.0, 90.0), (5.0, 90.0), MNIST_RUNS),
    "cifar10_loss": ReleasedModel("reference-cifar10", "loss", 2048, 16, (1.2, 2.3), (1.2, 2.3), CIFAR10_RUNS),
    "cifar10_error": ReleasedModel("reference-cifar10", "error", 2048, 16, (37.0, 90.0), (39.8, 90.0), CIFAR10_RUNS),
    "cartpole": ReleasedModel("reference-cartpole", "return", 1536, 12, (0.0, 500.0), (490.0, 0.0), {"return": 490.0}),
}


def find_data(*, num_params: int | None = None, tensor_sizes: tuple[int, ...] | None = None) -> ReferenceData | None:
    """The data set of networks of this size, or of tensors of these sizes, if it is one of the reference's."""
    for data in DATA:
        if tensor_sizes in (None, data.tensor_sizes) and num_params in (None, sum(data.tensor_sizes)):
            return data
    return None


def data_facts(task: str, metric: str) -> TrainingFacts:
    """Facts of the training data of a model for this task and metric; empty where nothing is known."""
    for model in RELEASED.values():
        if (model.task, model.metric) == (task, metric):
            return model.facts()
    return TrainingFacts()
