"""Facts of a model's training data: ranges of its metric, quality and number of the runs, how they were made.

A model keeps them in its model_index.json, which may come from anywhere: `from_json` is the one check of them.

K = prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar

import torch
from torch import Tensor

from g_pt.files.schema import Between, Count, Whole, brief, one_line, read_object, read_value
from g_pt.networks.metrics import Metric

MOST_RUNS = 1_000_000
# of what says how runs were made: a reader may do it again, and is not asked for months
MOST = {
    "num_runs": MOST_RUNS, "num_steps": 1_000_000, "num_checkpoints": 100_000, "runs_per_shard": MOST_RUNS,
    "batch_size": 100_000, "n_steps": 100_000, "num_envs": 10_000, "n_epochs": 1000, "num_minibatches": 100_000,
}  # fmt: skip
MOST_ENTRIES, MOST_LETTERS = 100, 10_000
# settings by name, at the top of the source
KINDS: dict[str, Any] = {
    **{name: Annotated[int, Between(1, most)] for name, most in MOST.items()},
    **dict.fromkeys(("learning_rate", "momentum", "weight_decay", "max_abs_param"), Annotated[float, Between(0)]),
    "learning_rate_range": tuple[float, float] | None,
    "seed": Whole,
    "optimizer": str | dict[str, Any],
    "rules": list[str],
}

Fact = TypeVar("Fact")
Runs = Annotated[int, Between(1, MOST_RUNS)]
Width = Annotated[int, Between(1, 1_000_000)]


@dataclass(frozen=True)
class TrainedRuns:
    """Quality of runs that the model never saw.

    Attributes:
        means: `{"test_<metric>": mean}` of their last checkpoints, on the test split.
        num_runs: how many; None where it is not known.
    """

    means: dict[str, float] = field(default_factory=dict)
    num_runs: int | None = None

    @classmethod
    def from_json(cls, value: Any) -> TrainedRuns:
        """Read `{"num_runs": N, "test_<metric>": {"mean": number}}`."""
        entries = dict(read_value(dict[str, Any], value, "trained_runs"))
        num_runs = read_value(Runs | None, entries.pop("num_runs", None), "num_runs")
        means = {name: read_object(Mean, entry, brief(name), ignore_unknown=True) for name, entry in entries.items()}
        return cls({name: entry.mean for name, entry in means.items()}, num_runs)

    def to_json(self) -> dict[str, Any]:
        """Inverse of `from_json`."""
        number = {} if self.num_runs is None else {"num_runs": self.num_runs}
        return {**number, **{name: {"mean": mean} for name, mean in self.means.items()}}


@dataclass(frozen=True)
class Mean:
    """An entry of `trained_runs`."""

    mean: float


@dataclass(frozen=True)
class DatasetFacts:
    """The runs that the model learned from.

    Attributes:
        num_runs: of the train split.
        num_checkpoints: of these runs.
        source: how they were made, as the dataset's header says it: settings by name, whose sizes are bounded here and
            which `checkpoints_dataset` reads.
    """

    num_runs: Runs | None = None
    num_checkpoints: Count | None = None
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_source(self.source)
        made = self.source.get("num_runs", MOST_RUNS)
        if self.source.get("kind") == "harvest" and self.num_runs is not None and self.num_runs > made:
            raise ValueError(f"num_runs must be at most the {made} of the source, got {self.num_runs}")


@dataclass(frozen=True)
class AlignmentFacts:
    """The last stage of the training, through the sampler and the metric; names as in its settings.

    Attributes:
        attainable_range: of the model: best mean metric of one update of fresh networks, and the mean before, raw.
        best_prompt: that gave the best, raw.
    """

    num_steps: Count
    gradient: Literal["exact", "evolution"]
    recursive_share: Annotated[float, Between(0, 1)] = 0.0
    teacher_runs: Whole = 0
    attainable_range: tuple[float, float] | None = None
    best_prompt: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain dict, without what there was not."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items() if v not in (0, None)}


@dataclass(frozen=True)
class SizeFacts:
    """What is known of the runs of one size of a family; names as in `TrainingFacts`.

    Attributes:
        hidden: widths of the hidden layers.
    """

    hidden: Annotated[tuple[Width, ...], Between(1, 64)]
    prompt_range: tuple[float, float]
    attainable_range: tuple[float, float]
    trained_runs: TrainedRuns | None = None

    @property
    def log_width(self) -> float:
        """Mean logarithm of the widths."""
        return log_width(self.hidden)

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        runs = {} if self.trained_runs is None else {"trained_runs": self.trained_runs.to_json()}
        ranges = {"prompt_range": list(self.prompt_range), "attainable_range": list(self.attainable_range)}
        return {"hidden": list(self.hidden), **ranges, **runs}


def size_name(hidden: Sequence[int]) -> str:
    """Hidden widths as a word: "24-12"."""
    return "-".join(map(str, hidden))


def log_width(hidden: Sequence[int]) -> float:
    """Mean logarithm of some widths."""
    return sum(map(math.log, hidden)) / len(hidden)


@dataclass(frozen=True)
class TrainingFacts:
    """Whatever is known of a model's training; None where it is not.

    Attributes:
        prompt_range: lowest and highest metric of any checkpoint of the runs, raw.
        attainable_range: mean over the runs of the best metric and of the first, best first, raw.
        trained_runs: quality of runs of the test split.
        dataset: the runs of the train split.
        alignment: the stage after denoising.
        source: where the numbers come from, if not from a dataset.
        sizes: of a family, each size that was harvested; the ranges above are those of the default size.
        width_range: of a family, the smallest and the largest hidden width that was trained on, harvested or not.
        best_run: quality of the one training run of so many that is best on the validation split.
        mean_answer: of what so many training runs predict on average.
    """

    prompt_range: tuple[float, float] | None = None
    attainable_range: tuple[float, float] | None = None
    trained_runs: TrainedRuns | None = None
    dataset: DatasetFacts = field(default_factory=DatasetFacts)
    alignment: AlignmentFacts | None = None
    source: Annotated[str, Between(0, 1000)] | None = None
    sizes: Annotated[tuple[SizeFacts, ...], Between(0, 10_000)] = ()
    width_range: tuple[Width, Width] | None = None
    best_run: TrainedRuns | None = None
    mean_answer: TrainedRuns | None = None

    def __post_init__(self) -> None:
        if self.prompt_range is not None and self.prompt_range[0] > self.prompt_range[1]:
            raise ValueError(f"prompt_range must have its lower end first, got {list(self.prompt_range)}")

    @classmethod
    def from_json(cls, value: Any, where: str = "training") -> TrainingFacts:
        """Read what `to_json` wrote; entries of newer versions are left out.

        Raises:
            ValueError: an entry is of another type or out of its range; one sentence begins with `where`.
        """
        return read_object(cls, value, where, ignore_unknown=True)

    def to_json(self) -> dict[str, Any]:
        """Plain dict, without what is not known."""
        dataset = {name: entry for name, entry in vars(self.dataset).items() if entry not in (None, {})}
        entries = {
            "prompt_range": None if self.prompt_range is None else list(self.prompt_range),
            "attainable_range": None if self.attainable_range is None else list(self.attainable_range),
            **{
                name: None if runs is None else runs.to_json()
                for name in ("trained_runs", "best_run", "mean_answer")
                for runs in [getattr(self, name)]
            },
            "dataset": dataset or None,
            "alignment": None if self.alignment is None else self.alignment.to_json(),
            "source": self.source,
            "sizes": [size.to_json() for size in self.sizes] or None,
            "width_range": None if self.width_range is None else list(self.width_range),
        }
        return {name: entry for name, entry in entries.items() if entry is not None}

    def check_metric(self, metric: Metric, where: str = "training") -> None:
        """Refuse ranges that the metric cannot have.

        Raises:
            ValueError: the worse end of `attainable_range` comes first, or a metric on a log scale is negative.
        """
        own = None if self.alignment is None else self.alignment.attainable_range
        ranges = {"prompt_range": self.prompt_range, "attainable_range": self.attainable_range, "its own": own}
        for name, ends in ranges.items():
            if ends is not None and metric.transform != "identity" and min(ends) < 0:
                raise ValueError(f"{where}: {name} of the {metric.name} must not be negative, got {list(ends)}")
        if self.attainable_range is not None and self.attainable_range != metric.best_first(
            *sorted(self.attainable_range)
        ):
            raise ValueError(
                f"{where}: attainable_range must have the better end of the {metric.name} first, got "
                f"{list(self.attainable_range)}"
            )

    def of_size(self, hidden: Sequence[int]) -> TrainingFacts:
        """Facts of networks of one size: measured where it was harvested, elsewhere interpolated over mean log width.

        Where no size with as many layers was harvested, those with the nearest number stand for it.

        Raises:
            ValueError: the model is of no family.
        """
        known("sizes", self.sizes or None)
        rest = replace(self, sizes=(), width_range=None)
        exact = next((size for size in self.sizes if size.hidden == tuple(hidden)), None)
        if exact is not None:
            seen, attainable = exact.prompt_range, exact.attainable_range
            return replace(rest, prompt_range=seen, attainable_range=attainable, trained_runs=exact.trained_runs)
        nearest = min((abs(len(size.hidden) - len(hidden)), len(size.hidden)) for size in self.sizes)[1]
        alike = sorted((s for s in self.sizes if len(s.hidden) == nearest), key=lambda size: size.log_width)
        places, place = [size.log_width for size in alike], log_width(hidden)
        low, high, best, first = (
            interpolated(place, places, list(values))
            for values in zip(*((*size.prompt_range, *size.attainable_range) for size in alike), strict=True)
        )
        return replace(rest, prompt_range=(low, high), attainable_range=(best, first), trained_runs=None)

    def attainable_of_runs(self) -> tuple[float, float]:
        """The runs' mean best metric and that of their inits, raw.

        Raises:
            ValueError: the model does not know it.
        """
        return known("attainable_range", self.attainable_range)

    def attainable(self) -> tuple[float, float]:
        """The same, from the model's own best metric on where that is better; raises as `attainable_of_runs` does."""
        best, init = self.attainable_of_runs()
        own = None if self.alignment is None else self.alignment.attainable_range
        if own is None:
            return best, init
        return (min(best, own[0]), init) if best < init else (max(best, own[0]), init)

    def seen(self) -> tuple[float, float]:
        """Lowest and highest metric of any checkpoint, raw; raises as `attainable` does."""
        return known("prompt_range", self.prompt_range)

    def quality(self, name: str) -> TrainedRuns:
        """Quality of runs of the test split, by "test_loss" or the like too; raises as `attainable` does."""
        runs = known("trained_runs", self.trained_runs)
        known(f"{name} in trained_runs", runs.means.get(name))
        return runs

    @property
    def best_prompts(self) -> tuple[float, ...]:
        """The prompt that gave the best metric when the model was trained, where it is known; raw."""
        known = None if self.alignment is None else self.alignment.best_prompt
        return () if known is None else (known,)

    def prompts(self, num_prompts: int) -> Tensor:
        """Evenly spaced prompts over the attainable range, the best first: (K,), raw; raises as `attainable` does."""
        return torch.linspace(*self.attainable(), num_prompts)


def interpolated(place: float, places: Sequence[float], values: Sequence[float]) -> float:
    """Piecewise linear between rising places, constant beyond them."""
    right = next((i for i, other in enumerate(places) if other >= place), len(places) - 1)
    left = max(0, right - 1)
    if place >= places[right] or left == right:
        return values[right]
    share = (place - places[left]) / (places[right] - places[left])
    return values[left] + share * (values[right] - values[left])


def known(name: str, value: Fact | None) -> Fact:
    """A fact that is needed; its absence is an error."""
    if value is None:
        raise ValueError(f"the model does not say the {name} of its training data: train it with this toolkit")
    return value


def check_source(source: Mapping[str, Any]) -> None:
    """Bound the sizes in what says how runs were made, and want the task of a harvest.

    Raises:
        ValueError: a setting is of another type, a size none or larger than anybody would harvest again, or there is
            more than settings need.
    """
    if source.get("kind") == "harvest" and not isinstance(source.get("task"), str):
        raise ValueError(f"source must give the task of a harvest as a name, got {brief(source.get('task'))}")
    check_settings(source, "source")


def check_settings(settings: Mapping[str, Any], where: str, depth: int = 0) -> None:
    """Check what is known of settings, and of those in them."""
    if len(settings) > MOST_ENTRIES or depth > 3:
        raise ValueError(f"{where} must have at most {MOST_ENTRIES} entries, three deep, got {len(settings)}")
    for name, value in settings.items():
        place = f"{where}: {one_line(name, 80)}"
        if name in KINDS and depth == 0:
            read_value(KINDS[name], value, place)
        elif name in MOST and type(value) is int:
            read_value(Annotated[int, Between(1, MOST[name])], value, place)
        for inner in value if isinstance(value, list) else (value,):
            if isinstance(inner, dict):
                check_settings(inner, place, depth + 1)
        if isinstance(value, dict):
            continue
        if isinstance(value, str | list) and len(value) > MOST_LETTERS:
            raise ValueError(f"{place} must be a setting, got {len(value):,} entries or letters")
        if isinstance(value, int | float) and not abs(value) < 2**63:  # NaN is not
            raise ValueError(f"{place} must be a finite number, got {brief(value)}")
