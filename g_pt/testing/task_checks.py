"""Checks of any task, and `check_task`, which runs all that apply.

B = networks, P = parameters per network.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from g_pt.networks.parameters import ParameterLayout
from g_pt.runtime.seeds import seeded_global_generator
from g_pt.tasks.base import SPLITS, Split, Task, TrainableTask
from g_pt.tasks.classification import ClassificationTask
from g_pt.tasks.registry import get_task, task_names
from g_pt.tasks.supervised import SupervisedTask
from g_pt.tasks.templates import plain_module, running_statistics
from g_pt.testing.requirements import (
    NUM_NETWORKS,
    global_generator_kept,
    load,
    networks,
    require,
    require_equal,
    run,
)
from g_pt.testing.supervised_checks import (
    NUM_EXAMPLES,
    check_chunks,
    check_outputs_of_module,
    check_splits,
    check_training_of_module,
)
from g_pt.update_rules.gradient import GradientRule
from g_pt.update_rules.problem import follow

TRAINING_STEPS, STEP_SIZE = 30, 0.02
MOST_EVALUATED = 5_000  # a larger training split is not evaluated


def check_task(task: Task) -> None:
    """Run every check that applies to the task; a few seconds at most for small networks.

    All tasks: name, layout, initialisation, evaluation, metrics, permutations, recalibration. Tasks that can be
    trained: losses of one network do not depend on others, and gradient steps improve them. Supervised tasks: splits,
    and outputs, gradients and statistics equal to those of `network()` run by PyTorch alone.

    Raises:
        AssertionError: a promise is broken; the message says which, what came, and what to do.
    """
    for check in (check_name, check_layout, check_init):
        check(task)
    if isinstance(task, SupervisedTask):
        check_splits(task)
    check_evaluate(task)
    check_metrics(task)
    if isinstance(task, TrainableTask):
        check_training(task)
    if isinstance(task, SupervisedTask):
        check_chunks(task)
        check_outputs_of_module(task)
        check_training_of_module(task)
    check_permutations(task)
    check_recalibrate(task)


def check_name(task: Task) -> None:
    """The name is a word, belongs to this class, and the class can be made from it."""
    name = getattr(task, "name", None)
    if not isinstance(name, str) or not name or ":" in name:
        raise AssertionError(f"`name` must be a string without colon such as 'my-task', got {name!r}")
    if name in task_names():
        owner = type(get_task(name))
        same = (owner.__module__, owner.__qualname__) == (type(task).__module__, type(task).__qualname__)
        require(same, f"the name {name!r} belongs to {owner.__module__}:{owner.__qualname__}: change `name`")
    try:
        inspect.signature(type(task)).bind()
    except TypeError as error:
        raise AssertionError(f"{type(task).__name__}() must need no arguments ({error}): give them defaults") from error


def check_layout(task: Task) -> None:
    """Vectors and state dicts of `network()` are the same thing."""
    module = plain_module(task.network())
    found = ParameterLayout.from_module(module)
    require(
        found == task.layout,
        f"network() must always be the same architecture; the layout is {task.layout.describe()}, this one "
        f"{found.describe()}",
    )
    vector = torch.arange(task.layout.num_params, dtype=torch.float32)
    loaded = task.layout.flatten(load(task, vector).state_dict())
    require(torch.equal(loaded, vector), "network() must hold the values that are loaded into it")


def check_init(task: Task) -> None:
    """Fresh networks: (B, P) float32, finite, different, decided by the generator alone."""
    _ = task.layout
    with global_generator_kept("init"):
        first, again, other = (task.init(NUM_NETWORKS, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    wanted = (NUM_NETWORKS, task.layout.num_params)
    require(tuple(first.shape) == wanted, f"init must have shape {wanted}, got {tuple(first.shape)}")
    require(first.dtype == torch.float32, f"init must be float32, got {first.dtype}")
    require(not first.requires_grad, "init must not require gradients: detach it")
    require(bool(first.isfinite().all()), "init must be finite")
    require(torch.equal(first, again), "init must be decided by its generator: the same seed, the same networks")
    num = len(torch.cat([first, other]).unique(dim=0))
    require(num == 2 * NUM_NETWORKS, f"init must draw every network anew: of {2 * NUM_NETWORKS}, {num} differ")


def check_evaluate(task: Task) -> None:
    """Every metric, (B,), finite, of each network alone, on the split that is asked for."""
    params = networks(task)
    kept = params.clone()
    small = not isinstance(task, TrainableTask) or task.num_examples <= MOST_EVALUATED
    for split in SPLITS if small else SPLITS[1:]:
        with global_generator_kept("evaluate"):
            measured = task.evaluate(params, split)
        require(set(measured) == set(task.metrics), f"evaluate must give {sorted(task.metrics)}, not {list(measured)}")
        reverse, again = task.evaluate(params.flip(0), split), task.evaluate(params, split)
        alone = [task.evaluate(row[None], split) for row in params]
        for name, values in measured.items():
            what = f"{name} on {split}"
            require(tuple(values.shape) == (len(params),), f"{what} must have shape (3,), got {tuple(values.shape)}")
            require(bool(values.isfinite().all()), f"{what} must be finite, got {values.tolist()}")
            require(torch.equal(again[name], values), f"{what} must be the same every time")
            require_equal(reverse[name].flip(0), values, f"{what}: networks in reverse order")
            require_equal(torch.cat([a[name] for a in alone]), values, f"{what}: each network alone")
    require(torch.equal(params, kept), "evaluate must leave the parameters as they are: clone what is written to")
    validation, test = task.evaluate(params, "validation"), task.evaluate(params, "test")
    same = all(torch.equal(validation[name], test[name]) for name in validation)
    alike = same and fresh_data_says_the_same(task, params, validation)
    require(alike or not same, "validation and test give the same metrics: does evaluate look at `split`?")
    wrong: list[tuple[str, Callable[[], object]]] = [
        ("a split that does not exist", lambda: task.evaluate(params, "nothing")),  # type: ignore[arg-type]
        ("vectors of another length", lambda: task.evaluate(params[:, 1:])),
    ]
    for what, call in wrong:
        try:
            call()
        except ValueError:
            continue
        raise AssertionError(f"evaluate must refuse {what} with a ValueError")


def check_metrics(task: Task) -> None:
    """Metrics are listed under their names, and what is measured suits their transforms."""
    require(len(task.metrics) > 0, "a task needs a metric")
    measured = {name: values.float() for name, values in task.evaluate(networks(task), "validation").items()}
    for name, metric in task.metrics.items():
        require(metric.name == name, f"metrics[{name!r}] must have that name, got {metric.name!r}")
        lowest = measured[name].min().item()
        if metric.transform != "identity":
            fits = lowest > 0 if metric.transform == "log" else lowest >= 0
            sign = "positive" if metric.transform == "log" else "0 or more"
            require(fits, f"{name} must be {sign} for transform {metric.transform!r}, got {lowest:.4g}: choose another")
        require(bool(metric.embedded(measured[name]).isfinite().all()), f"{name}: its transform must be finite")


def fresh_data_says_the_same(task: Task, params: Tensor, measured: Mapping[str, Tensor]) -> bool:
    """Whether data drawn anew give these metrics too, as in an environment without luck or where nobody succeeds."""
    try:
        drawn = {name: task.sampled_metric(name, params, 8, torch.Generator().manual_seed(0)) for name in measured}
    except ValueError:  # the task cannot draw any
        return all(len(values.unique()) == 1 for values in measured.values())
    return all(torch.equal(drawn[name], values) for name, values in measured.items())


def check_training(task: TrainableTask) -> None:
    """Losses (B,) that depend on one network each, and that gradient steps improve, as they do the metrics."""
    unknown = sorted(set(task.trained_names) - set(task.layout.names))
    require(not unknown, f"trained_names must be in the layout, got {unknown}")
    examples = torch.arange(min(4 * NUM_EXAMPLES, task.num_examples))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tensors = {n: t.clone() for n, t in task.layout.unflatten(networks(task)).items()}
        trained = [tensors[name].requires_grad_() for name in task.trained_names]
        losses = task.training_losses(tensors, examples)
        wanted = (NUM_NETWORKS,)
        require(tuple(losses.shape) == wanted, f"training_losses must be {wanted}, got {tuple(losses.shape)}")
        for name, grad in zip(
            task.trained_names, torch.autograd.grad(losses[1], trained, allow_unused=True), strict=True
        ):
            if grad is None:
                raise AssertionError(f"{name!r} has no part in the training loss: leave it out of trained_names")
            require(bool((grad[[0, 2]] == 0).all()), f"the loss of one network must not depend on {name!r} of another")
    start = task.init(NUM_NETWORKS, torch.Generator().manual_seed(0))
    rule, generator = GradientRule(FixedLength(), STEP_SIZE, schedule="linear"), torch.Generator().manual_seed(0)
    end, _ = next(follow(rule, task, start, generator, batch_size=len(examples), steps=[TRAINING_STEPS]))
    first, last = (seeded_loss(task, params, examples) for params in (start, end))
    require(
        last < first,
        f"{TRAINING_STEPS} gradient steps must lower the training loss, got {first:.4g} to {last:.4g}",
    )
    split: Split = "train" if task.num_examples <= MOST_EVALUATED else "validation"
    before, after = task.evaluate(task.recalibrate(start), split), task.evaluate(task.recalibrate(end), split)
    for name, metric in task.metrics.items():
        change = (after[name].mean() - before[name].mean()).item()
        better = change <= 0 if metric.minimize else change >= 0
        require(better, f"training changes {name} by {change:+.4g} on average, but minimize is {metric.minimize}")


@torch.no_grad()
def seeded_loss(task: TrainableTask, params: Tensor, examples: Tensor) -> float:
    """Mean training loss of networks (B, P) on some examples."""
    tensors = {n: t.clone() for n, t in task.layout.unflatten(params).items()}
    with seeded_global_generator(0):
        return task.training_losses(tensors, examples).mean().item()


@dataclass(frozen=True)
class FixedLength:
    """Steps of a fixed length in each tensor of each network: no other step size suits the gradients of every task."""

    def init(self, params: dict[str, Tensor]) -> None:
        """See `Optimizer`; there is no state."""

    def update(
        self, params: dict[str, Tensor], grads: dict[str, Tensor], losses: Tensor, state: None, rate: Any
    ) -> tuple[dict[str, Tensor], None]:
        """See `Optimizer`."""
        for name, param in params.items():
            length = grads[name].flatten(1).square().mean(dim=1).sqrt().clamp(min=1e-12)
            param -= rate * grads[name] / length.view(-1, *(1,) * (param.dim() - 1))
        return params, None


def check_permutations(task: Task) -> None:
    """Reordered units leave the function and the metrics as they were."""
    spec, layout, generator = task.permutations, task.layout, torch.Generator().manual_seed(0)
    require(
        set(spec.axes) == set(layout.names), f"permutations must name {sorted(layout.names)}, not {sorted(spec.axes)}"
    )
    params = networks(task)
    permuted = spec.permute(params, layout, spec.draw(layout, len(params), generator))
    fix = "reordering units by `permutations` changes the network: correct the axes, or fix them with None"
    if isinstance(task, SupervisedTask):
        inputs = task.examples("validation").inputs[:NUM_EXAMPLES]
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        with torch.no_grad():
            before, after = (run(load(task, p[0].double()).eval(), inputs) for p in (params, permuted))
        gap = ((after - before).abs().max() / before.abs().max().clamp(min=1e-2)).item()
        require(gap <= 1e-9, f"{fix}; outputs differ by {gap:.1e} in float64")
    measured = task.evaluate(params, "validation")
    for name, values in task.evaluate(permuted, "validation").items():
        gap = (values - measured[name]).abs().max().item()
        allowed = 1e-3 * measured[name].abs().max().item() + 1e-6
        if isinstance(task, ClassificationTask) and name == "error":  # float32 may tip an example over
            allowed += 200 / len(task.splits["validation"])
        require(gap <= allowed, f"{fix}; {name} differs by {gap:.2g}")


def check_recalibrate(task: Task) -> None:
    """Shape, dtype and trained tensors stay; a second call changes nothing, and spoilt statistics come back."""
    params = networks(task)
    kept = params.clone()
    with global_generator_kept("recalibrate"):
        once = task.recalibrate(params)
    require(torch.equal(params, kept), "recalibrate must return new parameters and leave those given as they are")
    same = once.shape == params.shape and once.dtype == params.dtype
    require(same, f"recalibrate must keep {tuple(params.shape)} {params.dtype}, got {tuple(once.shape)} {once.dtype}")
    require_equal(task.recalibrate(once), once, "recalibrate must change nothing a second time")
    if isinstance(task, TrainableTask):
        before, after = task.layout.unflatten(params), task.layout.unflatten(once)
        moved = [name for name in task.trained_names if not torch.equal(before[name], after[name])]
        require(not moved, f"recalibrate must leave trained tensors as they are, it changed {moved}")
    moving = set(running_statistics(plain_module(task.network()))) - set(task.constant_names)
    if statistics := sorted(moving):
        tensors = {name: tensor.clone() for name, tensor in task.layout.unflatten(once).items()}
        for name in statistics:
            tensors[name] += 3
        restored = task.recalibrate(task.layout.flatten(tensors))
        require_equal(restored, once, f"recalibrate must estimate {statistics} anew from training examples")
