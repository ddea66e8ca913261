"""The README of an uploaded model, from what the model and its report say; nothing is claimed that was not measured."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from g_pt.files.schema import one_line
from g_pt.networks.metrics import Metric
from g_pt.networks.parameters import ParameterLayout
from g_pt.networks.training_facts import TrainingFacts, size_name

TAGS = ["diffusers", "g-pt", "weight-space-learning", "learned-optimization"]
OWN_NETWORKS = (
    "\n\nIn place of the random vectors take networks of your own, initialised as for your training, and their "
    "{metric} as the starting metric."
)
PAPER = "[Peebles et al. 2022](https://arxiv.org/abs/2209.12892)"


@dataclass(frozen=True)
class ModelDescription:
    """A model in plain values.

    Attributes:
        task: name of its task; None where it has none.
        everybody_has_task: whether the task comes with this package and measures networks there.
        metric: what is prompted.
        layout: of the networks that it updates.
        facts: of its training.
        network: class of the model.
        num_weights: of the model.
        prediction_type: what it predicts.
        sampler: class of the scheduler.
        num_inference_steps: default number of sampling steps.
    """

    task: str | None
    everybody_has_task: bool
    metric: Metric
    layout: ParameterLayout
    facts: TrainingFacts
    network: str
    num_weights: int
    prediction_type: str
    sampler: str
    num_inference_steps: int


def model_card(
    model: ModelDescription,
    repo_id: str,
    *,
    report: dict[str, Any] | None = None,
    license: str | None = None,
) -> str:
    """Markdown with the metadata that the Hub reads.

    Args:
        model: what it is.
        repo_id: where it will be.
        report: what `gpt-evaluate --json` wrote, if it was.
        license: identifier of a licence.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        model_name=repo_id.rpartition("/")[2],
        library_name="g-pt",
        pipeline_tag="other",
        tags=TAGS,
        license=license,
        eval_results=eval_results(model.task, report),
    )
    metric, task = plain(model.metric.name), plain(model.task or "networks of your own")
    parts = [
        f"# {repo_id}",
        f"A G.pt ({PAPER}) for the task **{task}**: given a network it has never seen and a {metric} you ask for, "
        "it samples one parameter update that takes the network there.",
        "## Use",
        snippet(model, repo_id),
        "## What it is",
        bullets(description(model)),
        "## Training data",
        bullets(training_data(model.facts)),
        "## Evaluation",
        evaluation(report),
        "## Intended use and limits",
        bullets(limits(model.metric, any_size=bool(model.facts.sizes))),
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def eval_results(task: str | None, report: dict[str, Any] | None) -> list[Any] | None:
    """The `model-index` of the Hub: alignment, and the metrics after one update."""
    from huggingface_hub import EvalResult

    if report is None:
        return None
    task = str(report.get("task", task))
    measured = {f"prompt alignment, {name} range": entry["mean"] for name, entry in report["prompt_alignment"].items()}
    after = report.get("one_update", {})
    measured |= {f"{k} after one update": v["mean"] for k, v in after.items() if isinstance(v, dict)}
    return [
        EvalResult(
            task_type="other",
            task_name="one parameter update of unseen networks",
            dataset_type=task,
            dataset_name=task,
            dataset_split="test",
            metric_type=name.replace(" ", "_").replace(",", ""),
            metric_name=name,
            metric_value=round(float(value), 4),
        )
        for name, value in measured.items()
        if value is not None
    ]


def snippet(model: ModelDescription, repo_id: str) -> str:
    """Five lines that work wherever this package is installed."""
    best, init = model.facts.attainable() if model.facts.attainable_range else (0.1, 1.0)
    # a task of one's own is in no installed package: it can neither make the starts there nor measure them
    starts, known = "0.1 * torch.randn(8, pipe.layout.num_params)", f", starting_metric={init:.3g}"
    if model.everybody_has_task:
        starts, known = "pipe.task.init(8, torch.Generator().manual_seed(0))", ""
    note = "" if model.everybody_has_task else OWN_NETWORKS.format(metric=plain(model.metric.name))
    return f"""```python
import torch
from g_pt import ParameterUpdatePipeline

pipe = ParameterUpdatePipeline.from_pretrained({json.dumps(repo_id)})
starts = {starts}
updated = pipe(starts, prompted_metric={best:.3g}{known}).params  # (8, parameters)
```{note}"""


def description(model: ModelDescription) -> dict[str, str]:
    """Write the first paragraph: task, model, metric."""
    metric, layout = model.metric, model.layout
    facts = {
        "networks": f"{layout.num_params} parameters: {plain(layout.describe())}",
        "prompted by": f"{plain(metric.label)} on the task's validation split",
    }
    if model.facts.sizes:
        facts["other sizes"] = "`pipe.member((24, 12))`; the networks, ranges and figures here are those of one size"
        harvested = ", ".join(size_name(size.hidden) for size in model.facts.sizes)
        facts["hidden widths of the training runs"] = harvested
    if model.facts.prompt_range is not None:
        low, high = model.facts.prompt_range
        facts["range of prompts"] = f"{low:.4g} to {high:.4g} were seen in training"
    if model.facts.attainable_range is not None:
        best, init = model.facts.attainable_range
        facts["from runs' init to their best"] = f"{init:.4g} to {best:.4g} on average"
    own = model.facts.alignment and model.facts.alignment.attainable_range
    if own:
        facts["from inits to its own best"] = f"{own[1]:.4g} to {own[0]:.4g}, mean of updates on the validation split"
    objective = "flow matching" if model.prediction_type == "flow_prediction" else "diffusion"
    facts["model"] = f"{model.network}, {model.num_weights:,} parameters, {objective} ({model.prediction_type})"
    steps = model.num_inference_steps
    facts["sampler"] = f"{model.sampler}, {steps} step{'s' if steps > 1 else ''}"
    return facts


def training_data(training: TrainingFacts) -> dict[str, str]:
    """How many runs it learned from, how they were made, and by which stages it learned."""
    dataset = training.dataset
    if dataset.num_runs is None or dataset.num_checkpoints is None:
        return {"data": "not recorded"}
    facts = {"size": f"{dataset.num_checkpoints:,} checkpoints of {dataset.num_runs:,} training runs"}
    if dataset.source:
        facts["how the runs were made"] = ", ".join(plain(f"{key} {value}") for key, value in dataset.source.items())
    facts["stages"] = "denoising"
    if training.alignment is not None:
        known = training.alignment.to_json().items()
        settings = ", ".join(f"{key} {value}" for key, value in known if key not in ("attainable_range", "best_prompt"))
        facts["stages"] += f", then alignment through the sampler and the metric ({settings})"
    return facts


def evaluation(report: dict[str, Any] | None) -> str:
    """Tables of the report, with their intervals; and what it says on memorisation."""
    if report is None:
        return "Not measured. `gpt-evaluate --model MODEL --json report.json` measures it."
    lines = [
        f"`gpt-evaluate`: {plain(report.get('networks'))} freshly initialised networks, the test split of "
        f"{plain(report.get('task'))}, {plain(report.get('num_inference_steps'))} sampling steps, 95 % "
        "bootstrap intervals.",
        "",
        "| what | mean | 95 % interval |",
        "|---|---|---|",
    ]
    rows = {f"prompt alignment (R²), {name} range": entry for name, entry in report["prompt_alignment"].items()}
    after = report.get("one_update", {})
    rows |= {f"{k} after one update": v for k, v in after.items() if isinstance(v, dict)}
    rows |= {f"{k} before": v for k, v in report.get("starting", {}).items() if isinstance(v, dict)}
    lines += [f"| {plain(name.replace('_', ' '))} | {interval_cells(entry)} |" for name, entry in rows.items()]
    return "\n".join([*lines, "", *beside_runs(report), *over_sizes(report), memorisation(report)])


def beside_runs(report: dict[str, Any]) -> list[str]:
    """Lines of the table of one update beside the runs, and one that is empty; none where it was not measured."""
    rows = report.get("beside_runs", {})
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    if not names:
        return []
    lines = [f"| test split | {' | '.join(map(plain, names))} |", f"|{'---|' * (1 + len(names))}"]
    for who, values in rows.items():
        lines.append(f"| {plain(who)} | {' | '.join(number({'mean': values.get(name)}) for name in names)} |")
    return [*lines, ""]


def over_sizes(report: dict[str, Any]) -> list[str]:
    """Lines of the table of one update at every size; none where it was not measured."""
    sizes = report.get("sections", {}).get("sizes", {}).get("sizes", [])
    if not sizes:
        return []
    lines = [
        "| hidden widths | harvested | one update over trained runs | prompt alignment (R²) |",
        "|---|---|---|---|",
    ]
    for size in sizes:
        hidden, harvested = size_name(size["hidden"]), "yes" if size["harvested"] else "no"
        cells = (hidden, harvested, number({"mean": size["ratio"]}, 3), number(size["alignment"], 3))
        lines.append(f"| {' | '.join(map(plain, cells))} |")
    return [*lines, ""]


def interval_cells(entry: dict[str, Any]) -> str:
    """Mean and interval as two cells."""
    known = entry.get("low") is not None and entry.get("high") is not None
    interval = f"{entry['low']:.4g} to {entry['high']:.4g}" if known else ""
    return f"{number(entry)} | {interval}"


def number(entry: dict[str, Any], digits: int = 4) -> str:
    """The mean of an entry of the report, where it could be measured."""
    return "-" if entry.get("mean") is None else f"{entry['mean']:.{digits}g}"


# of the report's section on novelty: what the card calls it -> its key
NOVELTY_COLUMNS = {
    "accuracy % or metric": "quality",
    "distance to the nearest training run": "nearest_run",
    "copying z": "copying_score",
    "accurate and novel": "accurate_and_novel",
}


def memorisation(report: dict[str, Any]) -> str:
    """Write the table of the report's section on novelty, or a sentence that there is none."""
    section = report.get("sections", {}).get("novelty")
    if section is None:
        return "How far the sampled networks are from the training runs (memorisation, novelty) was not measured."
    lines = [
        f"One-update samples against {section['training_runs']:,} training runs; docs/novelty.md of g-pt says how "
        "to read it.",
        "",
        f"| networks | {' | '.join(NOVELTY_COLUMNS)} |",
        f"|{'---|' * (1 + len(NOVELTY_COLUMNS))}",
    ]
    for name, row in section["rows"].items():
        cells = [number(row.get(key, {}), 3) for key in NOVELTY_COLUMNS.values()]
        lines.append(f"| {plain(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def limits(metric: Metric, *, any_size: bool) -> dict[str, str]:
    """Write uses and limits."""
    layout = "with hidden layers of any widths" if any_size else "of exactly the layout above"
    return {
        "for": "research on learned optimization and on distributions of networks",
        "only": f"networks {layout}, with inputs preprocessed as in the task",
        "prompts": "outside the range seen in training need not be followed",
        "quality": f"the prompt means the {plain(metric.name)} on the validation split; other data give other values",
        "safety": "weights are safetensors; the one-line .py files only import the installed package g-pt, and only "
        "`DiffusionPipeline.from_pretrained(..., trust_remote_code=True)` runs them",
    }


def plain(text: Any) -> str:
    """Words from a model or a report as Markdown that shows them as they are: one line, no markup, no HTML."""
    return re.sub(r"([\\`*\[\]<>|#&$])", r"\\\1", one_line(str(text), 1000))


def bullets(facts: dict[str, str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())
