"""The module that stands for many networks: it lends its forward pass, and each network brings its own tensors.

B = networks, N = examples or observations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from g_pt.networks.parameters import ParameterLayout
from g_pt.runtime.float_dtype import OneFloatDtype, to_float_dtype
from g_pt.runtime.guards import GuardAnswers
from g_pt.runtime.seeds import seeded_global_generator
from g_pt.tasks.recurrent import has_recurrence, unfused_recurrence

WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}


def plain_module(module: nn.Module) -> nn.Module:
    """The module itself, without DataParallel and torch.compile around it or around a part of it.

    Raises:
        ValueError: it is no module, is scripted, or has parameters without a shape.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"network() must return a torch.nn.Module, got {type(module).__name__}")
    module = unwrapped(module)
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise ValueError("network() must return a module that is not scripted: leave out torch.jit.script or trace")
    if lazy := [name for name, tensor in module.named_parameters() if is_lazy(tensor)]:
        raise ValueError(
            f"network() must return parameters that have a shape, but {lazy[0]!r} is lazy: call the module once on an "
            "example before it is returned"
        )
    return module


def unwrapped(module: nn.Module) -> nn.Module:
    """What is inside a wrapper, and inside those of its parts."""
    while (inside := WRAPPERS.get(type(module).__name__)) is not None:
        module = getattr(module, inside)
    for name, part in list(module.named_children()):
        if (plain := unwrapped(part)) is not part:
            setattr(module, name, plain)
    if getattr(module, "_compiled_call_impl", None) is not None:
        module._compiled_call_impl = None  # of module.compile()
    return module


@dataclass(frozen=True)
class StackedModule:
    """A module in float32 and evaluation mode, and how it is run with the tensors of many networks.

    Attributes:
        module: its own values are never read.
        casts: `network()` makes tensors of another precision, so that its forward pass may ask for that one.
        recurrent: it has layers that torch.vmap has no rule for.
        tied: further places of tensors that the layout holds once, `{name of the place: name in the layout}`.
        answers: to the guards in its forward pass, by mode, once one was met; see `GuardAnswers`.
    """

    module: nn.Module
    casts: bool
    recurrent: bool
    tied: Mapping[str, str]
    answers: dict[bool, list[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, network: Callable[[], nn.Module]) -> StackedModule:
        """Make it by `network()`; the global generator stays as it was.

        Raises:
            ValueError: see `plain_module` and `check_stackable`.
        """
        with seeded_global_generator(0):
            module = plain_module(network()).eval()
        check_stackable(module)
        state = module.state_dict().values()
        casts = any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in state)
        module = to_float_dtype(module, torch.float32)
        return cls(module, casts, has_recurrence(module), tied_places(module))

    def __call__(
        self,
        tensors: Mapping[str, Tensor],
        inputs: Tensor,
        *,
        read: Callable[[Any], Any],
        shared: bool = True,
    ) -> Any:
        """Outputs of B networks, (B, ...), as the module gives them in its present mode.

        Args:
            tensors: `{name: (B, *shape)}`, raw; running statistics are updated in place in training mode.
            inputs: (N, ...), the same for all networks, or (B, N, ...) where they are not `shared`.
            read: what the module returns, to the tensor that is wanted, or to a dict of them.
            shared: whether all networks get the same inputs.
        """
        module, constants = self.module.to(inputs.device), self.counters()
        statistics = {name: tensors[name].detach() for name in running_statistics(module)}  # they have no gradient

        def run(own: dict[str, Tensor], seen: Tensor) -> Any:
            return read(self.call(own, constants, seen))

        # dropout draws from the global generator, for each network on its own
        randomness = "different" if module.training else "error"
        try:
            with self.precautions(), tensors_put_back(module):
                return torch.vmap(run, (0, None if shared else 0), randomness=randomness)(
                    {**tensors, **statistics}, inputs
                )
        except RuntimeError as error:
            first = {name: tensor[0].detach().clone() for name, tensor in tensors.items()}
            if "data-dependent" in str(error) and self._finds_guards(first, inputs if shared else inputs[0]):
                return self(tensors, inputs, read=read, shared=shared)
            error.add_note("torch.vmap cannot run this network; override `forward` with a loop")
            raise

    def _finds_guards(self, own: Mapping[str, Tensor], inputs: Tensor) -> bool:
        """Whether guards, whose answers were not known before, are what torch.vmap cannot run."""
        mode = self.module.training
        if mode in self.answers:
            return False
        with torch.no_grad(), seeded_global_generator(0), self.precautions(), GuardAnswers() as guards:
            self.call(own, self.counters(), inputs)
        self.answers[mode] = guards.answers
        return bool(guards.answers)

    def call(self, own: Mapping[str, Tensor], constants: Mapping[str, Tensor], inputs: Tensor) -> Any:
        """What the module returns with the tensors of one network, `{name: shape}`."""
        tied = {place: own[name] for place, name in self.tied.items()}
        # torch ties by itself, but does not put back what a layer with two names held
        return torch.func.functional_call(self.module, {**own, **tied, **constants}, (inputs,), tie_weights=False)

    def counters(self) -> dict[str, Tensor]:
        """Copies of the integer buffers: they move as a network runs."""
        return {name: value.clone() for name, value in self.module.named_buffers() if not value.is_floating_point()}

    @contextmanager
    def precautions(self) -> Iterator[None]:
        """Run attention unfused, and the module's recurrent layers in parts and its casts in float32, if it has any."""
        with ExitStack() as stack:
            # vmap takes fused attention network by network, at half the speed, and warns of it
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if self.recurrent:
                stack.enter_context(unfused_recurrence())
            if self.casts:
                stack.enter_context(OneFloatDtype(torch.float32))
            if known := self.answers.get(self.module.training):
                stack.enter_context(GuardAnswers(known))
            yield


@contextmanager
def tensors_put_back(module: nn.Module) -> Iterator[None]:
    """Undo what a forward pass leaves in attributes, as the older weight_norm does; it belongs to no network."""
    before = [(vars(part), dict(vars(part))) for part in module.modules()]
    try:
        yield
    finally:
        for now, then in before:
            for name in [name for name, value in now.items() if isinstance(value, Tensor)]:
                if name in then:
                    now[name] = then[name]
                else:
                    del now[name]


def fresh_params(network: Callable[[], nn.Module], layout: ParameterLayout, num: int, seed: int) -> Tensor:
    """Parameters (num, P), float32, of modules made one by one; the global generator stays as it was."""
    rows = []
    with seeded_global_generator(seed):
        for _ in range(num):
            state = plain_module(network()).state_dict()
            layout.check(state)
            rows.append(layout.flatten({name: state[name].float() for name in layout.names}))
    return torch.stack(rows)


def check_stackable(module: nn.Module) -> None:
    """Refuse modules whose training needs more than real numbers in floating point."""
    if complex_names := [name for name, tensor in module.state_dict().items() if tensor.is_complex()]:
        raise ValueError(
            f"every parameter must be a real number, but {complex_names[0]!r} is complex: keep its real and imaginary "
            "part as a last axis of 2 (torch.view_as_real)"
        )
    for name, layer in module.named_modules():
        if isinstance(layer, _NormBase) and layer.track_running_stats and layer.momentum is None:
            raise ValueError(
                f"layer {name!r} averages over all batches (momentum=None); give it a momentum, such as 0.1"
            )


def running_statistics(module: nn.Module) -> list[str]:
    """State-dict names of the running means and variances."""
    return [
        f"{prefix}.{name}".lstrip(".")
        for prefix, layer in module.named_modules()
        if isinstance(layer, _NormBase) and layer.track_running_stats
        for name in ("running_mean", "running_var")
    ]


def tied_places(module: nn.Module) -> dict[str, str]:
    """Where a module holds a tensor once more, and the first name of that tensor."""
    first: dict[int, str] = {}
    tied = {}
    for prefix, part in module.named_modules():  # a layer with two names is one place
        for name, tensor in {**part._parameters, **part._buffers}.items():
            if tensor is None:
                continue
            place = f"{prefix}.{name}".lstrip(".")
            if first.setdefault(id(tensor), place) != place and tensor.is_floating_point():
                tied[place] = first[id(tensor)]
    return tied


def trained_names(module: nn.Module, layout: ParameterLayout) -> tuple[str, ...]:
    """The module's parameters, without buffers and without those frozen by `requires_grad=False`."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return tuple(name for name in layout.names if name in trained)
