"""The reference's configuration: what a checkpoint's tensors do not say, from a YAML or JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from g_pt.files.atomic import read_json_object
from g_pt.files.schema import Between, one_line, read_value
from g_pt.files.yaml_files import read_yaml
from g_pt.reference.weights import TensorFacts

MAX_JSON_BYTES = 10_000_000
# the reference's names of metrics -> ours
METRICS = {"avg_test_loss": "loss", "avg_test_err": "error", "train_ret": "return"}
NAMES = {"loss": "loss", "error": "error", "err": "error", "return": "return", "cartpole": "return"}
DROPOUTS = {
    "attention_dropout": "attn_pdrop",
    "residual_dropout": "resid_pdrop",
    "embedding_dropout": "embd_pdrop",
}
# what a model can be built and sampled with
LIMITS: dict[str, Any] = {
    "num_heads": Annotated[int, Between(1, 4096)],
    "max_frequency_log2": Annotated[float, Between(0, 100)],
    "predict_xstart": bool,
    "coefficient": Annotated[float, Between(1e-6, 1e6)],
    "metric": Annotated[str, Between(1, 100)],
    "tensor_sizes": Annotated[tuple[Annotated[int, Between(1, 2**40)], ...], Between(1, 100_000)],
    "dropouts": dict[str, Annotated[float, Between(0, 1)]],
}


@dataclass(frozen=True)
class ReferenceSettings:
    """Settings of a model of the reference; None is what nobody said.

    Attributes:
        num_heads: attention heads.
        max_frequency_log2: of the scalars' embedding.
        predict_xstart: whether the output is x_0; otherwise the noise.
        coefficient: normalised parameters are raw ones times it; 1 for no normalisation.
        metric: that conditions the model: loss, error or return.
        tensor_sizes: numbers of parameters of the networks' tensors.
        tensor_names: their names.
        dropouts: by our names, see `DROPOUTS`.
        stated: what the tensors say too, under the reference's names, to be compared.
    """

    num_heads: int | None = None
    max_frequency_log2: float | None = None
    predict_xstart: bool | None = None
    coefficient: float | None = None
    metric: str | None = None
    tensor_sizes: tuple[int, ...] | None = None
    tensor_names: tuple[str, ...] | None = None
    dropouts: dict[str, float] = field(default_factory=dict)
    stated: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind in LIMITS.items():
            if (value := getattr(self, name)) is not None:
                read_value(kind, value, name)

    def over(self, other: ReferenceSettings) -> ReferenceSettings:
        """These settings, and those of another where these say nothing."""
        unsaid = {f.name: getattr(other, f.name) for f in fields(self) if getattr(self, f.name) in (None, {})}
        return replace(self, **unsaid)

    def check(self, facts: TensorFacts, where: str) -> None:
        """Refuse a file that contradicts the tensors; the error names the setting."""
        found = {
            "n_embd": facts.width,
            "n_layer": facts.num_layers,
            "encoder_depth": facts.encoder_depth,
            "decoder_depth": facts.decoder_depth,
            "num_frequencies": facts.num_frequencies,
            "absolute_loss_conditioning": facts.absolute_metrics,
            "max_freq_log2": facts.max_frequency_log2,
        }
        for name, value in found.items():
            stated = self.stated.get(name)
            if stated is not None and value is not None and stated != value:
                raise ValueError(f"{where} says {name} = {stated!r}, the weights have {value!r}: another model's file?")
        if self.tensor_sizes is not None and sum(self.tensor_sizes) != facts.num_params:
            raise ValueError(
                f"{where} says networks of {sum(self.tensor_sizes)} parameters, the weights are for "
                f"{facts.num_params}: another model's file?"
            )


def read_settings(path: Path) -> ReferenceSettings:
    """Read a configuration of the reference: its YAML, or JSON with the arguments of its model.

    Sections `transformer` and `dataset` and the top level are searched; everything else is training and logging.

    Raises:
        OSError: there is no such file.
        ValueError: not valid YAML or JSON, or a value of another type.
    """
    values = read_json_object(path, max_bytes=MAX_JSON_BYTES) if path.suffix == ".json" else read_yaml(path)
    dataset = section(values, "dataset", path)
    model = {**values, **section(values, "transformer", path)}
    try:
        sizes, names = model.get("parameter_sizes"), model.get("parameter_names")
        common = model.get("dropout_prob", 0.0)
        return ReferenceSettings(
            num_heads=number(model.get("n_head"), int),
            max_frequency_log2=number(model.get("max_freq_log2"), float),
            predict_xstart=model.get("predict_xstart"),
            coefficient=1.0 if dataset.get("normalizer") == "none" else number(dataset.get("openai_coeff"), float),
            metric=metric_of(dataset),
            tensor_sizes=None if sizes is None else tuple(int(size) for size in sizes),
            tensor_names=None if names is None else read_value(tuple[str, ...], names, "parameter_names"),
            dropouts={ours: float(model.get(theirs, common)) for ours, theirs in DROPOUTS.items()},
            stated={name: value for name, value in model.items() if isinstance(value, int | float)},
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path} has a value of another type or size than the reference's configuration: {one_line(str(error))}"
        ) from error


def section(values: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    """A section of the file, empty where it is not there."""
    found = values.get(name) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{path}: {name!r} must be a section of settings, got {found!r}")
    return found


def number(value: Any, kind: type[int] | type[float]) -> Any:
    """A number that may be missing, or a string (YAML reads 1e4 as one)."""
    return None if value is None else kind(value)


def metric_of(dataset: Mapping[str, Any]) -> str | None:
    """Our name of the metric of a `dataset` section, by its `train_metric`, then by its name."""
    return METRICS.get(str(dataset.get("train_metric"))) or metric_in_name(str(dataset.get("name", "")))


def metric_in_name(name: str) -> str | None:
    """The metric that a name such as "mnist_loss" ends with."""
    return NAMES.get(name.rpartition("_")[2])
