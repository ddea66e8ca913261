"""Starts of a kind that the model never saw: other initialisations, trained networks, networks with a layer reset."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from g_pt.evaluation.initializations import INITIALIZATIONS, layers, reset_layer
from g_pt.evaluation.statistics import bootstrap_mean, prompt_alignment, summary
from g_pt.report.recursion import Recursion, follow_prompts
from g_pt.report.section import Section, Subject, Table

NUM_NETWORKS, NUM_PROMPTS = 32, 5
AFTER = (1, 10)  # updates


def measure_inits(subject: Subject) -> Section:
    """Metric before, after one and after ten updates, and alignment, for every kind of start."""
    prompts = subject.attainable_prompts(min(subject.num_prompts, NUM_PROMPTS))
    facts: dict[str, Any] = {}
    rows = []
    for kind, starts in kinds_of_starts(subject).items():
        subject.progress(f"starts: {kind}")
        found = follow_prompts(subject, starts, prompts, subject.generator(f"inits/{kind}/noise"), AFTER)
        facts[kind] = init_facts(found, subject.metric.name)
        rows.append((kind, str(len(starts)), *init_cells(found, subject.metric.name)))
    columns = [f"{n} update{'s' * (n > 1)}" for n in AFTER]
    notes = ["The prompt of each row is the one that is best on the validation split after the first update."]
    if subject.runs is None:
        notes.append("Trained networks as starts, and those with one layer reset, need the training runs: --dataset.")
    return Section(
        name="inits",
        title="What of starts it never saw?",
        facts={"prompts": prompts.tolist(), "starts": facts},
        tables=(
            Table(
                f"kinds of starts: test {subject.metric.label}, alignment over {len(prompts)} prompts, test split",
                ("start", "networks", "before", *columns, *(f"alignment, {c}" for c in columns)),
                tuple(rows),
            ),
        ),
        notes=tuple(notes),
    )


def kinds_of_starts(subject: Subject) -> dict[str, Tensor]:
    """Starts (B, P), raw, by what they are called; those made of trained networks where there are any."""
    num, task = min(subject.num_networks, NUM_NETWORKS), subject.task
    starts = {
        name: init(task, num, subject.generator(f"inits/{name}")).float() for name, init in INITIALIZATIONS.items()
    }
    if subject.runs is not None:
        held_out = subject.runs.held_out
        trained = held_out.ends[:num]
        starts["held-out runs, some checkpoint"] = held_out.checkpoints[:num]
        starts["held-out runs, trained"] = trained
        for layer in layers(task):
            fresh = reset_layer(task, trained, layer, subject.generator(f"inits/reset {layer}"))
            starts[f"trained, {layer} reset"] = fresh
    return {name: params for name, params in starts.items() if len(params) >= 2}


def init_facts(found: Recursion, name: str) -> dict[str, Any]:
    """JSON: the prompted metric before and after, and alignment."""
    after = {
        str(number): {
            "alignment": summary(prompt_alignment(found.prompts, metrics[name])),
            **{f"test_{m}": summary(values[:, found.best]) for m, values in metrics.items()},
        }
        for number, metrics in found.achieved.items()
    }
    return {"prompt": found.prompts[found.best].item(), f"test_{name}": summary(found.starting), "updates": after}


def init_cells(found: Recursion, name: str) -> list[str]:
    """The same as text."""
    metrics = [f"{bootstrap_mean(values[name][:, found.best]):.3g}" for values in found.achieved.values()]
    alignments = [f"{bootstrap_mean(prompt_alignment(found.prompts, v[name])):.2f}" for v in found.achieved.values()]
    return [f"{bootstrap_mean(found.starting):.3g}", *metrics, *alignments]
