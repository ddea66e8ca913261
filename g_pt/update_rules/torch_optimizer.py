"""A G.pt as an optimizer for a training loop: a sampled update where it helps, an ordinary step where it does not.

P = parameters per network, K = samples of a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.networks.modules import check_module, module_params, write_module

Measure = Callable[[nn.Module], float]
UPDATES = "updates"  # key of what this class adds to the state dict of the wrapped optimizer


@dataclass(frozen=True)
class StepOutcome:
    """Outcome of one step.

    Attributes:
        kept: number of the sample that became the module, or None where the wrapped optimizer took the step.
        loss_before: of the closure, before the step.
        sample_losses: of the closure, for each of the K samples; empty where none was drawn.
    """

    kept: int | None
    loss_before: float
    sample_losses: tuple[float, ...]


class UpdateOptimizer(Optimizer):
    """Takes the best of K sampled updates where it lowers the loss on the guard batch, else another optimizer's step.

    The guard batch is the closure's. Learning rate schedulers, `param_groups`, `state` and `zero_grad` are those of
    the wrapped optimizer; `state_dict` is its state dict with one key more.
    """

    def __init__(
        self,
        module: nn.Module,
        pipeline: ParameterUpdatePipeline,
        fallback: Optimizer,
        *,
        prompted_metric: float | None = None,
        measure: Measure | None = None,
        num_samples: int = 1,
        guard: bool = True,
        patience: int | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Wrap an optimizer of the same module.

        Args:
            module: with the tensors of `pipeline.layout`; changed in place by each step.
            pipeline: samples the updates.
            fallback: takes the step where no sample is kept.
            prompted_metric: wanted metric, raw; the best of the pipeline's attainable range where it is not given.
            measure: gives the module's present metric, raw. Where it is not given, the pipeline's task measures it on
                its validation split; where that task is not registered, the closure's loss is taken for the metric,
                which a model of another metric than `loss` refuses.
            num_samples: K; the sample with the lowest closure's loss counts.
            guard: keep the sample only if its loss is lower than before; without it, it is always kept.
            patience: draw no more samples once so many steps in a row kept none; None for no end.
            num_inference_steps: sampling steps; the pipeline's default where it is not given.
            generator: of the sampling noise; one of its own, seeded with 0, where it is not given.

        Raises:
            ValueError: the module is of another architecture, or a setting has no meaning; the message says which.
        """
        super().__init__(fallback.param_groups, fallback.defaults)
        self.fallback = fallback
        self._share_state()
        check_module(module, pipeline.layout)
        if num_samples < 1 or (patience is not None and patience < 1):
            raise ValueError(f"num_samples and patience must be at least 1, got {num_samples} and {patience}")
        self.module, self.pipeline, self.measure = module, pipeline, measure or default_measure(pipeline)
        self.prompted_metric = best_prompt(pipeline) if prompted_metric is None else float(prompted_metric)
        self.num_samples, self.guard, self.patience = num_samples, guard, patience
        self.num_inference_steps = num_inference_steps
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.num_kept = self.num_refused = self.refused_in_a_row = 0
        self.last: StepOutcome | None = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Sample, and keep the best sample or take a step of the wrapped optimizer.

        Args:
            closure: clears the gradients, computes the loss on a batch, calls `backward` and returns the loss, as for
                `torch.optim.LBFGS`. It is called once for the present module and once for each sample, on the same
                state of PyTorch's random generators, so it has to take the same batch each time.

        Returns:
            The closure's loss before the step.

        Raises:
            ValueError: there is no closure.
        """
        if closure is None:
            raise ValueError("step needs a closure that computes the loss on a batch: it guards the sampled updates")
        self._share_state()
        if self.patience is not None and self.refused_in_a_row >= self.patience:
            loss = self.fallback.step(closure)
            self.last = StepOutcome(None, number(loss), ())
            return loss
        before = random_states(self.module)
        with torch.enable_grad():
            loss = closure()
        if loss is None:
            raise ValueError("the closure must return its loss, it returned None")
        after = random_states(self.module)
        snapshot = ModuleSnapshot(self.module)
        samples, losses = self._samples(number(loss)), []
        for params in samples:
            snapshot.restore(self.module)
            write_module(self.module, params, self.pipeline.layout)
            set_random_states(before)
            with torch.enable_grad():
                losses.append(number(closure()))
        snapshot.restore(self.module)
        set_random_states(after)
        best = min(range(len(losses)), key=lambda i: losses[i] if math.isfinite(losses[i]) else math.inf, default=None)
        kept = best if best is not None and (losses[best] < number(loss) or not self.guard) else None
        if kept is None:
            self.num_refused, self.refused_in_a_row = self.num_refused + 1, self.refused_in_a_row + 1
            self.fallback.step(replayed(closure, loss))
        else:
            self.num_kept, self.refused_in_a_row = self.num_kept + 1, 0
            write_module(self.module, samples[kept], self.pipeline.layout)
            for parameter in self.module.parameters():
                parameter.grad = None  # they belong to the module as it was
        self.last = StepOutcome(kept, number(loss), tuple(losses))
        return loss

    def _samples(self, loss: float) -> Tensor:
        """K updates of the present module: (K, P); none where it or its metric is not finite."""
        start = module_params(self.module, self.pipeline.layout)
        metric = loss if self.measure is None else float(self.measure(self.module))
        if not (math.isfinite(metric) and start.isfinite().all()):
            return start.new_empty(0, len(start))
        return self.pipeline(
            start.expand(self.num_samples, -1),
            self.prompted_metric,
            metric,
            num_inference_steps=self.num_inference_steps,
            generator=self.generator,
        ).params

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state dict, and under "updates" the counts and the state of the generator."""
        counts = {name: getattr(self, name) for name in ("num_kept", "num_refused", "refused_in_a_row")}
        return {**self.fallback.state_dict(), UPDATES: {**counts, "generator": self.generator.get_state()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state; one of the wrapped optimizer alone will do."""
        own = state_dict.get(UPDATES, {})
        self.fallback.load_state_dict({key: value for key, value in state_dict.items() if key != UPDATES})
        self._share_state()
        for name, value in own.items():
            if name == "generator":
                self.generator.set_state(value.cpu())
            else:
                setattr(self, name, value)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters to the wrapped optimizer."""
        if not hasattr(self, "fallback"):  # while the base class is made
            super().add_param_group(param_group)
            return
        self.fallback.add_param_group(param_group)
        self._share_state()

    def _share_state(self) -> None:
        # loading replaces them in the wrapped optimizer
        self.param_groups, self.state = self.fallback.param_groups, self.fallback.state


class ModuleSnapshot:
    """All tensors of a module and their gradients, integer buffers included."""

    def __init__(self, module: nn.Module) -> None:
        self.tensors = {name: t.detach().clone() for name, t in module.state_dict(keep_vars=True).items()}
        grads = ((name, p.grad) for name, p in module.named_parameters())
        self.grads = {name: None if grad is None else grad.detach().clone() for name, grad in grads}

    @torch.no_grad()
    def restore(self, module: nn.Module) -> None:
        """Put the values back."""
        for name, tensor in module.state_dict(keep_vars=True).items():
            tensor.copy_(self.tensors[name])
        for name, parameter in module.named_parameters():
            grad = self.grads[name]
            parameter.grad = None if grad is None else grad.clone()


def number(loss: Any) -> float:
    """A closure's loss without its graph."""
    return float(loss.detach() if isinstance(loss, Tensor) else loss)


def replayed(closure: Callable[[], Any], loss: Any) -> Callable[[], Any]:
    """A closure whose first call is answered by the loss whose gradients the module holds already."""
    answers: Iterator[Any] = iter((loss,))

    def call() -> Any:
        for answer in answers:
            return answer
        return closure()

    return call


def default_measure(pipeline: ParameterUpdatePipeline) -> Measure | None:
    """The task's validation metric, or None for the closure's loss where the task is not at hand.

    Raises:
        ValueError: the closure's loss is not the metric either.
    """
    try:
        task = pipeline.task
    except ValueError as error:
        if pipeline.metric.name == "loss":
            return None
        raise ValueError(
            f"give measure=, a function of the module that returns its {pipeline.metric.name}: {error}"
        ) from error
    metric, layout = pipeline.metric.name, pipeline.layout

    def measure(module: nn.Module) -> float:
        return task.evaluate(module_params(module, layout)[None], "validation")[metric].item()

    return measure


def best_prompt(pipeline: ParameterUpdatePipeline) -> float:
    """The model's own best prompt, or else the better end of the range that its training runs attain.

    Raises:
        ValueError: the pipeline does not know it.
    """
    if pipeline.facts.attainable_range is None:
        raise ValueError("give prompted_metric=: this pipeline does not say what its training runs attained")
    return (*pipeline.facts.best_prompts, pipeline.facts.attainable()[0])[0]


def random_states(module: nn.Module) -> dict[torch.device, Tensor]:
    """States of PyTorch's generators that the module's dropout draws from."""
    devices = {tensor.device for tensor in module.state_dict().values() if tensor.device.type == "cuda"}
    states = {device: torch.cuda.get_rng_state(device) for device in devices}
    return {torch.device("cpu"): torch.get_rng_state(), **states}


def set_random_states(states: dict[torch.device, Tensor]) -> None:
    """Put the generators back into these states."""
    for device, state in states.items():
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
