"""One update against N iterations of a population's own training: PPO, for policies.

B = policies, L = learning rates, S = numbers of iterations at which policies are measured, P = parameters per policy.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g_pt.evaluation.statistics import bootstrap_mean, bootstrap_median, finite, first_reached, summary
from g_pt.networks.metrics import Metric
from g_pt.report.courses import measured_steps
from g_pt.report.section import Section, Subject, Table
from g_pt.tasks.base import PopulationTask
from g_pt.update_rules.problem import follow
from g_pt.update_rules.prompted import PromptRule
from rl_tasks.ppo_config import PPOConfig

NUM_NETWORKS, TUNING_NETWORKS = 32, 16
RATES = (5e-4, 1.6e-3, 5e-3, 1.6e-2)
MOST_ITERATIONS = 60


def measure_population(subject: Subject) -> Section | None:
    """How many iterations the task's own training takes to what one update reaches; None for tasks without one.

    The learning rate is constant, and the best on the validation split, with policies of its own, for each number of
    iterations. Training starts from its own inits: it is compared with the mean of one update, not policy by policy.
    """
    task, metric = subject.task, subject.metric
    if not isinstance(task, PopulationTask):
        return None
    generator = subject.generator("population")
    num = min(subject.num_networks, NUM_NETWORKS)
    prompt = subject.best_prompt
    starts = task.init(num, generator).float()
    rule = PromptRule(subject.pipeline, prompt, subject.num_inference_steps)
    updated, _ = next(follow(rule, task, starts, generator))
    one_update = task.evaluate(updated, "test")[metric.name].cpu()

    steps = measured_steps(most_iterations(subject))
    curves, rates = tuned_courses(subject, task, num, steps, generator)
    usual = subject.harvest.ppo
    experience = usual.num_envs * usual.n_steps
    return make_section(prompt, one_update, curves, steps, rates, experience, metric)


def most_iterations(subject: Subject) -> int:
    """How long PPO runs: as long as the model's own training runs, but no longer than optimizers do here."""
    return min(subject.harvest.num_steps, subject.optimizer_steps, MOST_ITERATIONS)


def tuned_courses(
    subject: Subject, task: PopulationTask[PPOConfig], num: int, steps: list[int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Test metric of fresh policies after each number of iterations (B, S), each at the rate best for it (S,)."""
    metric, usual = subject.metric, subject.harvest.ppo
    tuning = torch.stack([tuned(subject, task, usual, rate, steps) for rate in RATES])  # (L, S)
    best = metric.argbest(tuning.T)  # (S,)
    curves = torch.empty(num, len(steps))
    for index in best.unique().tolist():
        subject.progress(f"{steps[-1]} iterations at learning rate {RATES[index]:g}")
        settings = at_rate(usual, RATES[index])
        trained = task.train_population(num, [0, *steps], settings, generator, dtype=torch.float32)
        chosen = (best == index).nonzero().flatten()
        points = trained.params[:, 1:][:, chosen]  # (B, chosen, P)
        curves[:, chosen] = task.evaluate(points.flatten(0, 1).float(), "test")[metric.name].cpu().view(num, -1)
    return curves, torch.tensor(RATES)[best]


def at_rate(settings: PPOConfig, rate: float) -> PPOConfig:
    """The same training at one constant learning rate."""
    return replace(settings, learning_rate_range=(rate, rate), final_learning_rate=1.0)


def tuned(
    subject: Subject, task: PopulationTask[PPOConfig], settings: PPOConfig, rate: float, steps: list[int]
) -> Tensor:
    """Mean validation metric of a few policies after each number of iterations: (S,)."""
    subject.progress(f"tuning: learning rate {rate:g}")
    generator = subject.generator(f"population/tuning {rate}")
    trained = task.train_population(TUNING_NETWORKS, [0, *steps], at_rate(settings, rate), generator)
    return trained.metrics[subject.metric.name][:, 1:].float().mean(dim=0).cpu()


def make_section(
    prompt: float, one_update: Tensor, curves: Tensor, steps: list[int], rates: Tensor, experience: int, metric: Metric
) -> Section:
    """Facts, table and figure: one update (B,), curves (B, S) and rates (S,)."""
    wanted = bootstrap_mean(one_update).mean
    reached = first_reached(curves, steps, torch.full((len(curves),), wanted), metric)
    median, share = bootstrap_median(reached), reached.isfinite().double().mean().item()
    facts: dict[str, Any] = {
        "one_update": {"prompt": prompt, f"test_{metric.name}": summary(one_update)},
        "iterations": steps,
        "experience_per_iteration": experience,
        "learning_rate": rates.tolist(),
        f"test_{metric.name}": [summary(values) for values in curves.T],
        "iterations_to_one_update": {
            "median": finite(median.mean),
            "low": finite(median.low),
            "high": finite(median.high),
            "share_that_reaches_it": share,
            "per_network": [finite(value) for value in reached.tolist()],
        },
    }
    rows = [
        (str(step), f"{rate:.2g}", f"{step * experience:,}", f"{bootstrap_mean(values):.3g}")
        for step, rate, values in zip(steps, rates.tolist(), curves.T, strict=True)
    ]
    middle = f"{median.mean:.0f}" if median.mean < float("inf") else f"more than {steps[-1]}"
    return Section(
        name="population",
        title="One update against N iterations of PPO",
        facts=facts,
        tables=(
            Table(
                f"test {metric.name} after N iterations of PPO: {len(curves)} policies; one update of as many, prompt "
                f"{prompt:.3g}: {bootstrap_mean(one_update):.3g}",
                ("iterations", "learning rate", "steps in the environment", f"test {metric.name}"),
                tuple(rows),
            ),
        ),
        notes=(
            f"A policy is as good as the mean of one update after {middle} iterations (median); {100 * share:.0f} % of "
            "the policies get there. One update takes no step in the environment but those that measure the start.",
            f"Learning rates are constant, the best of {len(RATES)} on the validation episodes for each number of "
            f"iterations, tuned with {TUNING_NETWORKS} other policies.",
        ),
        figures={"population.png": partial(draw_population, steps, curves, one_update, metric)},
    )


def draw_population(steps: list[int], curves: Tensor, one_update: Tensor, metric: Metric, path: Path) -> None:
    """The metric over iterations, one update as a level line."""
    from g_pt.pictures.sections import save_optimizer_curves

    save_optimizer_curves({"PPO": (steps, curves)}, one_update, path, metric)
