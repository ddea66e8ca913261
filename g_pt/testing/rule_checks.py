"""Does an update rule, or an optimizer, keep its promises? `check_rule(MyRule(), task)` says what is wrong.

B = networks, P = parameters per network.
"""

from __future__ import annotations

import copy
import dataclasses
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from g_pt.tasks.base import Task, TrainableTask
from g_pt.tasks.supervised import SupervisedTask
from g_pt.tasks.templates import running_statistics
from g_pt.testing.requirements import NUM_NETWORKS, global_generator_kept, require
from g_pt.update_rules.base import Cost, DrawnRule, Optimizer, UpdateRule
from g_pt.update_rules.problem import TaskProblem, follow, num_bytes

if TYPE_CHECKING:
    from g_pt.update_rules.base import Tensors

NUM_STEPS = 4
BATCH_SIZE = 16
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-9}  # relative to the largest value


def check_rule(rule: UpdateRule[Any], task: Task) -> None:
    """Run every check of an update rule on networks of a task; seconds for small networks.

    The starts stay as they are, the generator decides everything, all that a step leaves to the next is in (params,
    state), networks do not depend on those beside them, NaN of one included, and costs are counted. Rules that ask for
    gradients: networks together are as each alone, also with a learning rate each; tensors that are not trained stay;
    float64 stays float64 where the task computes in it.

    Raises:
        AssertionError: a promise is broken; the message says which, what came, and what to do.
    """
    untouched = copy.deepcopy(rule)
    require(
        isinstance(rule, UpdateRule), "a rule needs `name`, `init(params, task)` and `step(params, state, problem)`"
    )
    require(isinstance(rule.name, str) and bool(rule.name), f"`name` must be a word for figures, got {rule.name!r}")
    precise = computes_in_float64(task)
    starts = task.init(NUM_NETWORKS, torch.Generator().manual_seed(1))
    starts = starts.double() if precise else starts
    cost = check_steps(rule, task, starts)
    check_repeats(rule, untouched, task, starts)
    check_others_do_not_matter(rule, task, starts)
    check_cost(cost)
    if cost.model_passes == 0:  # a model draws noise by the place of a network, and predicts buffers too
        check_buffers(rule, task, starts)
        if getattr(rule, "learning_rate_range", None) is not None:  # drawn by the place of a network, too
            rule = dataclasses.replace(rule, learning_rate_range=None)  # type: ignore[type-var]
        check_alone(rule, task, starts)
        if hasattr(rule, "learning_rate"):
            check_rates(rule, task, starts)


def path(rule: UpdateRule[Any], task: Task, starts: Tensor, seed: int = 0) -> list[Tensor]:
    """Networks (B, P) after each of the first steps."""
    generator, steps = torch.Generator().manual_seed(seed), range(1, NUM_STEPS + 1)
    return [params for params, _ in follow(rule, task, starts, generator, batch_size=BATCH_SIZE, steps=steps)]


def check_steps(rule: UpdateRule[Any], task: Task, starts: Tensor) -> Cost:
    """Shapes, movement, own memory, and a generator that decides everything; returns the cost."""
    kept, generator, found = starts.clone(), torch.Generator().manual_seed(0), []
    with global_generator_kept("a step"):
        for params, cost in follow(rule, task, starts, generator, batch_size=BATCH_SIZE, steps=range(1, NUM_STEPS + 1)):
            found.append((params, params.clone(), cost))
    require(torch.equal(starts, kept), "the starts must stay as they are: init must not write into params")
    for params, then, _ in found:
        same = params.shape == starts.shape and params.dtype == starts.dtype
        require(
            same, f"networks must stay {tuple(starts.shape)} {starts.dtype}, got {tuple(params.shape)} {params.dtype}"
        )
        require(torch.equal(params, then), "a later step must not write into networks that were handed out")
        require(not params.requires_grad, "networks must not require gradients: detach them")
        require(bool(params.isfinite().all()), "networks with finite starts must stay finite for a few steps")
    moved = (found[-1][0] - starts).abs().amax(dim=1)
    require(
        bool((moved > 0).all()), f"every network must move within {NUM_STEPS} steps, they moved by {moved.tolist()}"
    )
    for (_, _, before), (_, _, after) in pairwise(found):
        added = [field.name for field in dataclasses.fields(Cost) if field.name != "state_bytes"]  # a state may shrink
        rises = all(getattr(after, name) >= getattr(before, name) for name in added)
        require(rises, f"costs must be added up (`problem.cost += Cost(...)`), got {before}, then {after}")
    last: Cost = found[-1][2]
    return last


def check_cost(cost: Cost) -> None:
    """Something was asked and counted."""
    asked = cost.gradients + cost.losses + cost.metrics + cost.model_passes
    require(asked > 0, "a rule must ask the problem for what it needs, or count it: `problem.cost += Cost(...)`")
    require(cost.seconds > 0, f"steps must take time, got {cost.seconds} s")


def check_repeats(rule: UpdateRule[Any], untouched: UpdateRule[Any], task: Task, starts: Tensor) -> None:
    """The same seed gives the same networks, from a rule that nobody used before, and from the middle of a run."""
    wanted = path(rule, task, starts)
    for again, before in zip(path(untouched, task, starts), wanted, strict=True):
        require(torch.equal(again, before), "the generator must decide everything, and a run leave nothing in the rule")
    generator = torch.Generator().manual_seed(0)
    if isinstance(rule, DrawnRule):
        rule, _ = rule.draw(len(starts), generator)
    problem = TaskProblem(task, generator, batch_size=BATCH_SIZE, num_steps=NUM_STEPS)
    params = {name: tensor.clone() for name, tensor in task.layout.unflatten(starts).items()}
    state = rule.init(params, task)
    for step in range(NUM_STEPS):
        problem.step = step
        params, state = rule.step(params, state, problem)
        require(
            set(params) == set(task.layout.names), f"step must return {list(task.layout.names)}, got {list(params)}"
        )
        params, state, rule = copy.deepcopy((params, state, rule))
    same = torch.equal(task.layout.flatten(params), wanted[-1])
    require(same, "all that a step leaves to the next must be in (params, state): another copy of them went elsewhere")
    held = num_bytes(state) / len(starts)
    generator = torch.Generator().manual_seed(0)
    [(_, cost)] = follow(rule, task, starts, generator, steps=[NUM_STEPS], batch_size=BATCH_SIZE)
    require(
        cost.state_bytes == held, f"the state's bytes must be counted: {held} for a network, got {cost.state_bytes}"
    )


def check_others_do_not_matter(rule: UpdateRule[Any], task: Task, starts: Tensor) -> None:
    """The first and last network end the same beside another one, and beside one of NaN, which stays NaN."""
    wanted = path(rule, task, starts)[-1]
    others = starts.clone()
    others[1] = task.init(1, torch.Generator().manual_seed(2))[0].to(starts)
    broken = starts.clone()
    broken[1] = torch.nan
    for beside, what in ((others, "beside another network"), (broken, "beside a network of NaN")):
        ends = path(rule, task, beside)[-1]
        require_close(ends[[0, 2]], wanted[[0, 2]], f"networks must not depend on others, {what}")
    require(bool(ends[1].isnan().any()), "a network of NaN must stay one, so that it is seen and left out")


def check_alone(rule: UpdateRule[Any], task: Task, starts: Tensor) -> None:
    """Networks together end as each alone."""
    together = path(rule, task, starts)[-1]
    for i, end in enumerate(together):
        require_close(path(rule, task, starts[i : i + 1])[-1][0], end, "each network alone against all at once")


def check_rates(rule: Any, task: Task, starts: Tensor) -> None:
    """Networks with a learning rate each end as each alone with its own."""
    base = rule.learning_rate[0] if isinstance(rule.learning_rate, tuple) else rule.learning_rate
    rates = tuple(base / 2**i for i in range(len(starts)))
    together = path(dataclasses.replace(rule, learning_rate=rates), task, starts)[-1]
    for i, rate in enumerate(rates):
        alone = path(dataclasses.replace(rule, learning_rate=rate), task, starts[i : i + 1])[-1]
        require_close(together[i], alone[0], "learning_rate must take a tuple, one for each network")


def check_buffers(rule: UpdateRule[Any], task: Task, starts: Tensor) -> None:
    """Tensors that are not trained stay, but for the running statistics that training itself updates."""
    if not isinstance(task, TrainableTask):
        return
    moving = set(running_statistics(task.template)) if isinstance(task, SupervisedTask) else set()
    before, after = (task.layout.unflatten(params) for params in (starts, path(rule, task, starts)[-1]))
    kept = [name for name in task.layout.names if name not in task.trained_names and name not in moving]
    moved = [name for name in kept if not torch.equal(before[name], after[name])]
    require(not moved, f"only trained tensors may move (task.trained_names), but {moved} did")


def computes_in_float64(task: Task) -> bool:
    """Whether training losses of networks in float64 are float64."""
    if not isinstance(task, TrainableTask):
        return False
    tensors = task.layout.unflatten(task.init(1, torch.Generator().manual_seed(0)).double())
    try:
        return task.training_losses(tensors, torch.arange(1)).dtype == torch.float64
    except RuntimeError:  # its examples are float32
        return False


def check_optimizer(optimizer: Optimizer[Any]) -> None:
    """Run every check of an optimizer, on trees of tensors without a task.

    Networks together are as each alone, with one learning rate and with one each, in float64; float32 stays float32;
    NaN of one network stays in it; nothing is kept but (params, state), and no memory of the gradients.

    Raises:
        AssertionError: a promise is broken; the message says which, what came, and what to do.
    """
    require(isinstance(optimizer, Optimizer), "an optimizer needs `init(params)` and `update(...)`; see Optimizer")
    starts = {"weight": normal(0, NUM_NETWORKS, 2, 3), "bias": normal(1, NUM_NETWORKS, 4)}
    kept, untouched = copy.deepcopy(starts), copy.deepcopy(optimizer)
    optimizer.init(starts)
    require_tree(starts, kept, "init must leave the parameters as they are", exact=True)
    rates = torch.tensor([0.01, 0.02, 0.005], dtype=torch.float64)
    single, together = train(optimizer, starts, 0.01), train(optimizer, starts, rates)
    moved = all(bool(((single[name] - starts[name]).abs().flatten(1).amax(1) > 0).all()) for name in starts)
    require(moved, "every tensor of every network must move")
    require_tree(train(untouched, starts, 0.01), single, "a run must leave nothing in the optimizer", exact=True)
    require_tree(train(optimizer, starts, 0.01, copying=True), single, "all must be in (params, state)", exact=True)
    require_tree(train(optimizer, starts, 0.01, spoiling=True), single, "state must own its memory: copy gradients")
    for i, rate in enumerate(rates.tolist()):
        alone = {name: tensor[i : i + 1] for name, tensor in starts.items()}
        require_tree(train(optimizer, alone, 0.01), part(single, i), "each network alone against all at once")
        require_tree(train(optimizer, alone, rate), part(together, i), "a rate for each network, against each alone")
    broken = {name: tensor.clone() for name, tensor in starts.items()}
    broken["weight"][1] = torch.nan
    ends = train(optimizer, broken, 0.01)
    for i in (0, 2):
        require_tree(part(ends, i), part(single, i), "networks beside one of NaN", exact=True)
    require(bool(ends["weight"][1].isnan().any()), "a network of NaN must stay one, so that it is seen and left out")
    coarse = train(optimizer, {name: tensor.float() for name, tensor in starts.items()}, 0.01)
    require(all(t.dtype == torch.float32 for t in coarse.values()), "float32 must stay float32")


def train(
    optimizer: Optimizer[Any], starts: Tensors, rate: float | Tensor, *, copying: bool = False, spoiling: bool = False
) -> Tensors:
    """Networks after a few updates; with all handed on as copies, or with gradients overwritten after their use."""
    params: Tensors = {name: tensor.clone() for name, tensor in starts.items()}
    state = optimizer.init(params)
    for step in range(2 * NUM_STEPS):
        grads = {name: torch.sin(3 * tensor + step) for name, tensor in params.items()}
        losses = torch.stack([tensor.flatten(1).square().sum(1) for tensor in params.values()]).sum(0)
        params, state = optimizer.update(params, grads, losses, state, rate)
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in params.items()}
        wanted = {name: (tensor.shape, tensor.dtype) for name, tensor in starts.items()}
        require(shapes == wanted, f"update must return tensors {wanted}, got {shapes}")
        if copying:
            optimizer, params, state = copy.deepcopy((optimizer, params, state))
        if spoiling:
            for grad in grads.values():
                grad.fill_(torch.nan)
    return params


def part(tree: Tensors, network: int) -> Tensors:
    """One network of a tree, with its leading axis."""
    return {name: tensor[network : network + 1] for name, tensor in tree.items()}


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def require_tree(got: Tensors, wanted: Tensors, what: str, *, exact: bool = False) -> None:
    """Refuse tensors that differ."""
    for name, tensor in wanted.items():
        if exact:
            require(torch.equal(got[name], tensor), f"{what}: {name!r} differs")
        else:
            require_close(got[name], tensor, f"{what}: {name!r}")


def require_close(got: Tensor, wanted: Tensor, what: str) -> None:
    """Refuse differences above what another order of sums makes."""
    gap = ((got - wanted).abs().max() / wanted.abs().max()).item()
    allowed = TOLERANCES[wanted.dtype]
    require(gap <= allowed, f"{what}: differs by {gap:.1e} of the largest value, allowed is {allowed:g}")
