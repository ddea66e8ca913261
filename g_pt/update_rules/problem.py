"""The problem that a task is to an update rule, and following a rule on it: the one loop over B networks.

B = networks, P = parameters per network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from g_pt.runtime.seeds import global_generator_as
from g_pt.tasks.base import Task, TrainableTask
from g_pt.update_rules.base import Cost, DrawnRule, UpdateRule
from g_pt.update_rules.gradient import trained_names
from g_pt.update_rules.layer_moments import gradient_moments, input_moments
from g_pt.update_rules.mini_batches import mini_batches

if TYPE_CHECKING:
    from g_pt.update_rules.base import Tensors

MixedPrecision = Literal["no", "bf16"]


class TaskProblem:
    """See `Problem`. Nothing is drawn before it is needed: mini-batches when gradients are asked for, for instance."""

    def __init__(
        self,
        task: Task,
        generator: torch.Generator,
        *,
        batch_size: int = 64,
        num_steps: int | None = None,
        mixed_precision: MixedPrecision = "no",
        module_generator: torch.Generator | None = None,
    ) -> None:
        """See `follow`."""
        self.task, self.generator, self.num_steps = task, generator, num_steps
        self._batch_size = batch_size
        self.step, self.cost = 0, Cost()
        self._drawn = (-1, torch.empty(0))  # the step that the examples were drawn for, and the examples
        self._module_generator = module_generator
        self._precision = torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision == "bf16")

    def gradients(self, params: Tensors) -> tuple[Tensor, Tensors]:
        """See `Problem`.

        Raises:
            ValueError: the task has no training loss, or a tensor has no part in it.
        """
        names, examples = trained_names(self.task), self.examples()
        leaves = {name: params[name].detach().requires_grad_() for name in names}
        with torch.enable_grad(), global_generator_as(self.module_generator):  # dropout draws from it
            losses = self._training_losses({**params, **leaves}, examples)
            # no parameter is shared: one backward for all
            grads = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
        self.cost += Cost(gradients=1)
        return losses.detach(), writable(dict(zip(names, grads, strict=True)), self.task)

    @torch.no_grad()
    def losses(self, params: Tensors, num_batches: int = 1) -> Tensor:
        """See `Problem`."""
        trained_names(self.task)  # refuses tasks without a training loss
        seen = {name: tensor.clone() for name, tensor in params.items()}  # running statistics stay as they are
        with global_generator_as(self.module_generator):
            found = [self._training_losses(seen, next(self._other_batches)) for _ in range(num_batches)]
        self.cost += Cost(losses=num_batches)
        return torch.stack(found).mean(dim=0)

    def metric(self, params: Tensors, name: str) -> Tensor:
        """See `Problem`."""
        self.cost += Cost(metrics=1)
        return self.task.evaluate(self.task.layout.flatten(params), "validation")[self.task.metric(name).name]

    def layer_inputs(self, params: Tensors) -> Tensors:
        """See `Problem` and, for what raises, `known_layers`; networks run in evaluation mode, without dropout."""
        found = input_moments(self.task, params, self.examples())
        self.cost += Cost(losses=1)
        return found

    def layer_gradients(self, params: Tensors) -> Tensors:
        """See `Problem` and `gradient_moments`, for labels that the networks draw."""
        found = gradient_moments(self.task, params, self.examples(), self.generator)
        self.cost += Cost(gradients=1)
        return found

    def examples(self) -> Tensor:
        """Mini-batch of the step: indices of training examples."""
        if self._drawn[0] != self.step:
            self._drawn = (self.step, next(self._batches))
        return self._drawn[1]

    @cached_property
    def _batches(self) -> Iterator[Tensor]:
        return self._mini_batches(self.generator)

    @cached_property
    def _other_batches(self) -> Iterator[Tensor]:
        return self._mini_batches(spawned(self.generator))

    @property
    def batch_size(self) -> int:
        """Examples of a mini-batch: all there are where these are fewer than were asked for."""
        return min(self._batch_size, self.task.num_examples) if isinstance(self.task, TrainableTask) else 0

    @property
    def module_generator(self) -> torch.Generator:
        """Of what is random in networks, such as dropout."""
        if self._module_generator is None:
            self._module_generator = spawned(self.generator)
        return self._module_generator

    def _mini_batches(self, generator: torch.Generator) -> Iterator[Tensor]:
        assert isinstance(self.task, TrainableTask)
        return mini_batches(self.task.num_examples, self.batch_size, generator)

    def _training_losses(self, params: Tensors, examples: Tensor) -> Tensor:
        assert isinstance(self.task, TrainableTask)
        with self._precision:
            return self.task.training_losses(params, examples, self.generator)


def spawned(generator: torch.Generator) -> torch.Generator:
    """A generator of its own, seeded by another."""
    return torch.Generator().manual_seed(int(torch.randint(2**63 - 1, (), generator=generator)))


def writable(grads: dict[str, Tensor | None], task: Task) -> Tensors:
    """Contiguous gradients of which no two are the same memory, as they can be of `a + b`: optimizers write into them.

    Raises:
        ValueError: a tensor has no gradient.
    """
    own: Tensors = {}
    taken: set[int] = set()
    for name, grad in grads.items():
        if grad is None:
            raise ValueError(
                f"{name!r} of task {task.name!r} has no part in the training loss: remove it from network(), or "
                "keep it as it is by requires_grad=False"
            )
        grad = grad.contiguous()
        own[name] = grad.clone() if grad.data_ptr() in taken else grad
        taken.add(grad.data_ptr())
    return own


def follow(
    rule: UpdateRule[Any],
    task: Task,
    starts: Tensor,
    generator: torch.Generator,
    *,
    batch_size: int = 64,
    steps: Sequence[int] | None = None,
    mixed_precision: MixedPrecision = "no",
    module_generator: torch.Generator | None = None,
    progress: Callable[[int], object] | None = None,
) -> Iterator[tuple[Tensor, Cost]]:
    """Change networks by a rule, step after step. The same starts and state of the generator give the same networks.

    Args:
        rule: changes the networks; settings that each of them draws are drawn first.
        task: what the networks are.
        starts: (B, P), raw; they stay as they are.
        generator: of everything random.
        batch_size: examples of a mini-batch, which all networks share; all there are where these are fewer.
        steps: after which networks are yielded, rising; 0 are the starts. The last is the length of the run, at which
            schedules end. Where not given, networks are yielded after every step, without end.
        mixed_precision: "bf16" for products of training in bfloat16; parameters keep their dtype.
        module_generator: of what is random in the networks, such as dropout; PyTorch's global generator continues it
            while they run, and is as it was afterwards. Seeded by `generator` where not given.
        progress: called after every step with the number of networks.

    Yields:
        Networks (B, P), raw, a new tensor each, and the cost of all steps so far.

    Raises:
        ValueError: the steps do not rise from 0 or more, or the rule does not fit the task.
    """
    if steps is not None and (list(steps) != sorted(set(steps)) or not steps or steps[0] < 0):
        raise ValueError(f"steps must rise, from 0 or more, got {list(steps)}")
    problem = TaskProblem(
        task,
        generator,
        batch_size=batch_size,
        num_steps=None if steps is None else steps[-1],
        mixed_precision=mixed_precision,
        module_generator=module_generator,
    )
    return followed(rule, problem, starts, None if steps is None else set(steps), progress or (lambda taken: None))


def followed(
    rule: UpdateRule[Any],
    problem: TaskProblem,
    starts: Tensor,
    steps: Collection[int] | None,
    progress: Callable[[int], object],
) -> Iterator[tuple[Tensor, Cost]]:
    """What `follow` yields; a generator function of its own, since its body runs only at the first step."""
    layout, num = problem.task.layout, len(starts)
    if isinstance(rule, DrawnRule):
        rule, _ = rule.draw(num, problem.generator)
    params = {name: t.clone() for name, t in layout.unflatten(starts.detach()).items()}  # contiguous, and our own
    state = rule.init(params, problem.task)
    for number in count():
        if number > 0 if steps is None else number in steps:
            held = Cost(state_bytes=num_bytes(state) / num)
            yield layout.flatten(params), problem.cost + held
        if number == problem.num_steps:
            return
        problem.step, started = number, time.perf_counter()
        params, state = rule.step(params, state, problem)
        problem.cost += Cost(seconds=(time.perf_counter() - started) / num)
        progress(num)


def num_bytes(state: object) -> int:
    """Bytes of all tensors in nested tuples, lists and dicts; what is expanded counts once."""
    if isinstance(state, Tensor):
        own = (size for size, stride in zip(state.shape, state.stride(), strict=True) if stride)
        return math.prod(own) * state.element_size()
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, tuple | list) else ()
    return sum(num_bytes(part) for part in parts)
