"""The README of an uploaded model, from what the model and its report say; nothing is claimed that was not measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from g_pt.networks.metrics import Metric
from g_pt.networks.parameters import ParameterLayout
from g_pt.networks.training_facts import TrainingFacts

TAGS = ["diffusers", "g-pt", "weight-space-learning", "learned-optimization"]
PAPER = "[Peebles et al. 2022](https://arxiv.org/abs/2209.12892)"


@dataclass(frozen=True)
class ModelDescription:
    """A model in plain values.

    Attributes:
        task: name of its task; None for networks of the user's own.
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
    metric, task = model.metric, model.task or "networks of your own"
    parts = [
        f"# {repo_id}",
        f"A G.pt ({PAPER}) for the task **{task}**: given a network it has never seen and a {metric.name} you ask for, "
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
        bullets(limits(metric)),
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
    ]


def snippet(model: ModelDescription, repo_id: str) -> str:
    """Five lines that work."""
    best, init = model.facts.attainable_range or (0.1, 1.0)
    return f"""```python
import torch
from g_pt import ParameterUpdatePipeline

pipe = ParameterUpdatePipeline.from_pretrained("{repo_id}")
starts = {starts(model.task)}
updated = pipe(starts, prompted_metric={best:.3g}{known_start(model.task, init)}).params  # (8, parameters)
```"""


def starts(task: str | None) -> str:
    """Eight networks to begin with: fresh ones where the task can make them."""
    if task is None:
        return "0.1 * torch.randn(8, pipe.layout.num_params)"
    return "pipe.task.init(8, torch.Generator().manual_seed(0))"


def known_start(task: str | None, metric: float) -> str:
    """The starting metric, which cannot be measured without a task."""
    return "" if task is not None else f", starting_metric={metric:.3g}"


def description(model: ModelDescription) -> dict[str, str]:
    """What is updated, by what, towards what."""
    metric, layout = model.metric, model.layout
    facts = {
        "networks": f"{layout.num_params} parameters: {layout.describe()}",
        "prompted by": f"{metric.label} on the task's validation split",
    }
    if model.facts.prompt_range is not None:
        low, high = model.facts.prompt_range
        facts["range of prompts"] = f"{low:.4g} to {high:.4g} were seen in training"
    if model.facts.attainable_range is not None:
        best, init = model.facts.attainable_range
        facts["from runs' init to their best"] = f"{init:.4g} to {best:.4g} on average"
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
        facts["how the runs were made"] = ", ".join(f"{key} {value}" for key, value in dataset.source.items())
    facts["stages"] = "denoising"
    if training.alignment is not None:
        settings = ", ".join(f"{key} {value}" for key, value in asdict(training.alignment).items())
        facts["stages"] += f", then alignment through the sampler and the metric ({settings})"
    return facts


def evaluation(report: dict[str, Any] | None) -> str:
    """Tables of the report, with their intervals; and what it says on memorisation."""
    if report is None:
        return "Not measured. `gpt-evaluate --model MODEL --json report.json` measures it."
    lines = [
        f"`gpt-evaluate`: {report.get('networks')} freshly initialised networks, the test split of "
        f"{report.get('task')}, {report.get('num_inference_steps')} sampling steps, 95 % bootstrap intervals.",
        "",
        "| what | mean | 95 % interval |",
        "|---|---|---|",
    ]
    rows = {f"prompt alignment (R²), {name} range": entry for name, entry in report["prompt_alignment"].items()}
    after = report.get("one_update", {})
    rows |= {f"{k} after one update": v for k, v in after.items() if isinstance(v, dict)}
    rows |= {f"{k} before": v for k, v in report.get("starting", {}).items() if isinstance(v, dict)}
    lines += [f"| {name.replace('_', ' ')} | {interval_cells(entry)} |" for name, entry in rows.items()]
    return "\n".join([*lines, "", memorisation(report)])


def interval_cells(entry: dict[str, Any]) -> str:
    """Mean and interval as two cells."""
    interval = f"{entry['low']:.4g} to {entry['high']:.4g}" if {"low", "high"} <= set(entry) else ""
    return f"{entry['mean']:.4g} | {interval}"


# of the report's section on novelty: what the card calls it -> its key
NOVELTY_COLUMNS = {
    "accuracy % or metric": "quality",
    "distance to the nearest training run": "nearest_run",
    "copying z": "copying_score",
    "accurate and novel": "accurate_and_novel",
}


def memorisation(report: dict[str, Any]) -> str:
    """What the report's section on novelty says of samples, fresh networks and competitors, or that it has none."""
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
        cells = [f"{row[key]['mean']:.3g}" if key in row else "-" for key in NOVELTY_COLUMNS.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def limits(metric: Metric) -> dict[str, str]:
    """What it is for and what it cannot do."""
    return {
        "for": "research on learned optimization and on distributions of networks",
        "only": "networks of exactly the layout above, with inputs preprocessed as in the task",
        "prompts": "outside the range seen in training need not be followed",
        "quality": f"the prompt means the {metric.name} on the validation split; other data give other values",
        "safety": "weights are safetensors; the one-line .py files only import the installed package g-pt, and only "
        "`DiffusionPipeline.from_pretrained(..., trust_remote_code=True)` runs them",
    }


def bullets(facts: dict[str, str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())
