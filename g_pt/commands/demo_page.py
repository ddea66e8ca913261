"""A local page: drag the prompt, see what the updated networks reach and what they now answer.

S = samples, N = test images, P = parameters per network.
"""

from __future__ import annotations

import math
import os
import secrets
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from g_pt.files.schema import one_line
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.networks.network_files import read_network
from g_pt.pictures.canvas import BLUE, GREY, ORANGE, new_figure, show_words
from g_pt.tasks.classification import ClassificationTask

NUM_IMAGES = 10
# (prompt, achieved metrics of its samples), kept while the page is open
History = list[tuple[float, list[float]]]


@dataclass(frozen=True)
class Outcome:
    """Updates of one fresh network.

    Attributes:
        before: metrics on the test split.
        after: `{metric: (S,)}` of the samples.
        images: (N, height, width) or (N, height, width, 3) between 0 and 1; None where the task has none.
        labels: (N,).
        answers: before and after (the first sample), (2, N).
        start: (P,) the network before.
        updated: (P,) the first sample.
    """

    before: dict[str, float]
    after: dict[str, np.ndarray[Any, Any]]
    start: Tensor
    updated: Tensor
    images: np.ndarray[Any, Any] | None = None
    labels: np.ndarray[Any, Any] | None = None
    answers: np.ndarray[Any, Any] | None = None


@cache
def load(name: str) -> ParameterUpdatePipeline:
    """A model, loaded once."""
    pipeline = ParameterUpdatePipeline.from_pretrained(name)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def update(name: str, prompt: float, seed: int, num_samples: int, start_params: Tensor | None = None) -> Outcome:
    """Update a network (P,), a fresh one where none is given, `num_samples` times; measure on the test split."""
    pipeline = load(name)
    task, generator = pipeline.task, torch.Generator().manual_seed(seed)
    start = task.init(1, generator) if start_params is None else start_params[None]  # (1, P)
    updated = pipeline(start.expand(num_samples, -1), prompt, generator=generator).params  # (S, P)
    before = {metric: float(values[0]) for metric, values in task.evaluate(start, "test").items()}
    after = {metric: values.cpu().numpy() for metric, values in task.evaluate(updated, "test").items()}
    if not isinstance(task, ClassificationTask):
        return Outcome(before, after, start[0], updated[0])
    examples = task.splits["test"]
    images = pictures(examples.inputs[:NUM_IMAGES])
    networks = torch.cat([start, updated[:1].to(start.device)])  # (2, P)
    logits = task.forward(task.layout.unflatten(networks), examples.inputs[:NUM_IMAGES])  # (2, C, N)
    answers = logits.argmax(dim=1).numpy()
    return Outcome(before, after, start[0], updated[0], images, examples.labels[:NUM_IMAGES].numpy(), answers)


def film(outcome: Outcome, name: str, seed: int) -> str | None:
    """A GIF of a policy being played, before and after; None where there is no policy, or nothing to draw it with."""
    from rl_tasks.task import GymnasiumTask
    from rl_tasks.video import check_packages, write_comparison

    task = load(name).task
    if not isinstance(task, GymnasiumTask):
        return None
    try:
        check_packages()
    except ValueError:
        return None
    folder = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    path = folder / f"film-{secrets.token_hex(8)}.gif"
    write_comparison(task, outcome.start, outcome.updated, path, seed=seed)
    return str(path)


def read_start(path: str | None, name: str) -> Tensor | None:
    """A network (P,) from an uploaded file, None where there is none.

    Raises:
        ValueError: it is no safetensors file of finite numbers, or of other networks.
    """
    if path is None:
        return None
    if Path(path).suffix != ".safetensors":
        raise ValueError("the network must be a .safetensors file")
    params = read_network(Path(path), load(name).layout)
    if not params.isfinite().all():
        raise ValueError("the network holds NaN or infinity")
    return params


def pictures(inputs: Tensor) -> np.ndarray[Any, Any] | None:
    """Standardised inputs (N, ...) as images, each over its own range of brightness; None where they are none."""
    if inputs.dim() == 2:
        side = math.isqrt(inputs.shape[1])
        if side < 4 or side * side != inputs.shape[1]:
            return None
        inputs = inputs.view(-1, 1, side, side)
    images = inputs.movedim(1, -1)
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    scaled = ((images - low) / (high - low).clamp(min=1e-6)).numpy()
    return scaled[..., 0] if scaled.shape[-1] == 1 else scaled


def prompt_figure(history: History, name: str) -> Figure:
    """Prompted against achieved: every sample of every prompt so far, the newest in colour."""
    pipeline = load(name)
    metric = pipeline.metric
    figure, (axis,) = new_figure()
    low, high = prompt_limits(pipeline)
    axis.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1, label="as prompted")
    for number, (prompt, achieved) in enumerate(history):
        newest = number == len(history) - 1
        axis.scatter(
            [prompt] * len(achieved), achieved, s=36 if newest else 14, alpha=0.8, zorder=3 if newest else 2,
            color=ORANGE if newest else BLUE, linewidths=0, label="this prompt" if newest else None,
        )  # fmt: skip
    if metric.transform != "identity" and low > 0:
        axis.set(xscale="log", yscale="log")
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_formatter("{x:g}")  # 0.1, not a power of ten
    axis.set(xlabel=f"prompted {metric.label}", ylabel=f"achieved {metric.name}, test split")
    axis.set_title("prompted against achieved, every sample so far")
    axis.legend(frameon=False, loc="upper left")
    show_words(figure)
    return figure


def answers_figure(outcome: Outcome) -> Figure | None:
    """Test images with what the network answers, before and after; wrong answers in orange."""
    if outcome.images is None or outcome.answers is None or outcome.labels is None:
        return None
    figure = Figure(figsize=(1.05 * len(outcome.images), 3.6), dpi=120, layout="constrained")
    figure.suptitle("answers on test images (blue: right, orange: wrong)")
    grid = figure.subplots(2, len(outcome.images))
    for row, title in enumerate(("before", "after")):
        for axis, image, label, answer in zip(
            grid[row], outcome.images, outcome.labels, outcome.answers[row], strict=True
        ):
            axis.imshow(image, cmap="gray_r", interpolation="nearest")
            right = answer == label
            axis.set_title(str(answer), color=BLUE if right else ORANGE, fontsize=15, fontweight="bold")
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_color(BLUE if right else ORANGE)
        grid[row][0].set_ylabel(title, fontsize=13)
    return figure


def table(outcome: Outcome, name: str, prompt: float) -> str:
    """Before, prompted, achieved, as Markdown."""
    metric = load(name).metric.name
    names = list(outcome.before)
    lines = [["", *names], ["---"] * (len(names) + 1)]
    lines.append(["before", *(f"{outcome.before[m]:.4g}" for m in names)])
    lines.append(["prompted", *(f"**{prompt:.4g}**" if m == metric else "" for m in names)])
    many = len(outcome.after[metric]) > 1
    lines.append(["achieved" + (", mean" if many else ""), *(f"**{outcome.after[m].mean():.4g}**" for m in names)])
    if many:
        ranges = (f"{outcome.after[m].min():.4g} to {outcome.after[m].max():.4g}" for m in names)
        lines.append(["lowest to highest sample", *ranges])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def prompt_limits(pipeline: ParameterUpdatePipeline) -> tuple[float, float]:
    """Lowest and highest prompt of the slider: from the best attainable metric to the init's."""
    facts = pipeline.facts
    low, high = sorted(facts.attainable() if facts.attainable_range else facts.prompt_range or (0.1, 1.0))
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-6):  # all runs alike: some room to drag
        return low - 0.05 * max(abs(low), 1e-3), high + 0.05 * max(abs(high), 1e-3)
    return low, high


def slider_range(low: float, high: float) -> tuple[float, float, float]:
    """Ends and step of a slider within a range, all of them short numbers: about 200 steps of 1, 0.1, 0.01, ..."""
    digits = round(-math.log10((high - low) / 200))
    step = 10.0**-digits
    return round(math.ceil(low / step) * step, digits), round(math.floor(high / step) * step, digits), step


def build_page(models: list[str]) -> Any:
    """The page as gradio blocks, not launched."""
    import gradio as gr

    def slider_of(name: str) -> dict[str, Any]:
        pipeline = load(name)
        low, high, step = slider_range(*prompt_limits(pipeline))
        best = pipeline.metric.best_first(low, high)[0]
        label = f"prompted {pipeline.metric.label}"
        return {"minimum": low, "maximum": high, "value": best, "step": step, "label": label}

    def show(name: str, prompt: float, seed: float, samples: float, start: Any, history: History) -> tuple[Any, ...]:
        outcome = update(name, prompt, int(seed), int(samples), start)
        history = [*history[-30:], (prompt, outcome.after[load(name).metric.name].tolist())]
        answers, played = answers_figure(outcome), film(outcome, name, int(seed))
        return (
            table(outcome, name, prompt),
            prompt_figure(history, name),
            gr.update(value=answers, visible=answers is not None),
            gr.update(value=played, visible=played is not None),
            history,
            outcome.updated,
        )

    def choose(name: str) -> tuple[Any, ...]:
        return gr.update(**slider_of(name)), [], None, None

    def upload(path: str | None, name: str) -> Any:
        try:
            return read_start(path, name)
        except (ValueError, OSError) as error:
            raise gr.Error(one_line(str(error)).replace(str(path), "the file")) from error

    # what people upload is gone an hour later, and at the end
    with gr.Blocks(title="g-pt", delete_cache=(600, 3600)) as page:
        gr.Markdown(
            "# g-pt: one update instead of training\nA network, a prompt, one sampled update; no gradient steps."
        )
        with gr.Row():
            with gr.Column(scale=1):
                model = gr.Dropdown(models, value=models[0], label="model")
                prompt = gr.Slider(**slider_of(models[0]))
                samples = gr.Slider(1, 16, value=8, step=1, label="samples of the update")
                seed = gr.Number(0, precision=0, minimum=0, maximum=2**31, label="seed of the fresh network")
                file = gr.File(file_types=[".safetensors"], label="start from a network of your own (.safetensors)")
                with gr.Row():
                    again = gr.Button("update again", elem_id="again")
                    fresh = gr.Button("a fresh network", elem_id="fresh")
                figures = gr.Markdown(elem_id="figures")
            curve = gr.Plot(show_label=False, elem_id="curve", scale=1)
        answers = gr.Plot(show_label=False, elem_id="answers")
        played = gr.Image(show_label=False, elem_id="played", type="filepath", format="gif", visible=False)
        history, start, updated = gr.State([]), gr.State(None), gr.State(None)
        inputs = [model, prompt, seed, samples, start, history]
        outputs = [figures, curve, answers, played, history, updated]
        shown: dict[str, Any] = {"fn": show, "inputs": inputs, "outputs": outputs, "show_progress": "minimal"}
        gr.on([page.load, prompt.release, samples.release, seed.submit], **shown)
        model.change(choose, model, [prompt, history, start, file]).then(**shown)
        file.upload(upload, [file, model], start).success(**shown)
        file.clear(lambda: None, None, start).then(**shown)
        again.click(lambda network: network, updated, start, api_name="again").then(**shown)
        fresh.click(lambda: (None, None), None, [start, file], api_name="anew").then(**shown)
    return page
