"""The README of an uploaded model, from what the model and its report say; nothing is claimed that was not measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from g_pt.model.pipeline import ParameterUpdatePipeline

TAGS = ["diffusers", "g-pt", "weight-space-learning", "learned-optimization"]
PAPER = "[Peebles et al. 2022](https://arxiv.org/abs/2209.12892)"


def model_card(
    pipeline: ParameterUpdatePipeline,
    repo_id: str,
    *,
    report: dict[str, Any] | None = None,
    license: str | None = None,
) -> str:
    """Markdown with the metadata that the Hub reads.

    Args:
        pipeline: the model.
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
        eval_results=eval_results(pipeline, report),
    )
    metric, task = pipeline.metric, pipeline.config.task or "networks of your own"
    parts = [
        f"# {repo_id}",
        f"A G.pt ({PAPER}) for the task **{task}**: given a network it has never seen and a {metric.name} you ask for, "
        "it samples one parameter update that takes the network there.",
        "## Use",
        snippet(pipeline, repo_id),
        "## What it is",
        bullets(description(pipeline)),
        "## Training data",
        bullets(training_data(pipeline.config.training)),
        "## Evaluation",
        evaluation(report),
        "## Intended use and limits",
        bullets(limits(pipeline)),
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def eval_results(pipeline: ParameterUpdatePipeline, report: dict[str, Any] | None) -> list[Any] | None:
    """The `model-index` of the Hub: alignment, and the metrics after one update."""
    from huggingface_hub import EvalResult

    if report is None:
        return None
    task = str(report.get("task", pipeline.config.task))
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


def snippet(pipeline: ParameterUpdatePipeline, repo_id: str) -> str:
    """Five lines that work."""
    best, init = pipeline.config.training.get("attainable_range", [0.1, 1.0])
    return f"""```python
import torch
from g_pt import ParameterUpdatePipeline

pipe = ParameterUpdatePipeline.from_pretrained("{repo_id}")
starts = {starts(pipeline)}
updated = pipe(starts, prompted_metric={best:.3g}{known_start(pipeline, init)}).params  # (8, parameters)
```"""


def starts(pipeline: ParameterUpdatePipeline) -> str:
    """Eight networks to begin with: fresh ones where the task can make them."""
    if pipeline.config.task is None:
        return "0.1 * torch.randn(8, pipe.layout.num_params)"
    return "pipe.task.init(8, torch.Generator().manual_seed(0))"


def known_start(pipeline: ParameterUpdatePipeline, metric: float) -> str:
    """The starting metric, which cannot be measured without a task."""
    return "" if pipeline.config.task is not None else f", starting_metric={metric:.3g}"


def description(pipeline: ParameterUpdatePipeline) -> dict[str, str]:
    """What is updated, by what, towards what."""
    metric, model, training = pipeline.metric, pipeline.transformer, pipeline.config.training
    size = sum(p.numel() for p in model.parameters())
    facts = {
        "networks": f"{pipeline.layout.num_params} parameters: {pipeline.layout.describe()}",
        "prompted by": f"{metric.name} ({metric.unit}) on the task's validation split",
    }
    if "prompt_range" in training:
        low, high = training["prompt_range"]
        facts["range of prompts"] = f"{low:.4g} to {high:.4g} were seen in training"
    if "attainable_range" in training:
        best, init = training["attainable_range"]
        facts["from runs' init to their best"] = f"{init:.4g} to {best:.4g} on average"
    objective = "flow matching" if model.config.prediction_type == "flow_prediction" else "diffusion"
    facts["model"] = f"{type(model).__name__}, {size:,} parameters, {objective} ({model.config.prediction_type})"
    steps = pipeline.config.num_inference_steps
    facts["sampler"] = f"{type(pipeline.scheduler).__name__}, {steps} step{'s' if steps > 1 else ''}"
    return facts


def training_data(training: dict[str, Any]) -> dict[str, str]:
    """How many runs it learned from, how they were made, and by which stages it learned."""
    dataset = training.get("dataset")
    if not isinstance(dataset, dict):
        return {"data": "not recorded"}
    facts = {"size": f"{dataset['num_checkpoints']:,} checkpoints of {dataset['num_runs']:,} training runs"}
    source = dataset.get("source")
    if isinstance(source, dict) and source:
        facts["how the runs were made"] = ", ".join(f"{key} {value}" for key, value in source.items())
    stage = training.get("alignment")
    facts["stages"] = "denoising"
    if isinstance(stage, dict):
        settings = ", ".join(f"{key} {value}" for key, value in stage.items())
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


def limits(pipeline: ParameterUpdatePipeline) -> dict[str, str]:
    """What it is for and what it cannot do."""
    return {
        "for": "research on learned optimization and on distributions of networks",
        "only": "networks of exactly the layout above, with inputs preprocessed as in the task",
        "prompts": "outside the range seen in training need not be followed",
        "quality": f"the prompt means the {pipeline.metric.name} on the validation split; other data give other values",
        "safety": "weights are safetensors; the one-line .py files only import the installed package g-pt, and only "
        "`DiffusionPipeline.from_pretrained(..., trust_remote_code=True)` runs them",
    }


def bullets(facts: dict[str, str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())
