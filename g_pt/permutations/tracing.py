"""The permutation spec of any network, read off the graph of its tensor operations.

`torch.export` writes the forward pass as a graph of aten operations. Every axis of every tensor of the network
starts as a group of its own; each operation then says which axes must move alike (rules.py), and
inputs and outputs are fixed. What is left to move is the spec.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import HigherOrderOperator
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations.axis_groups import AxisGroups, fixed
from g_pt.permutations.axis_views import view_axes
from g_pt.permutations.blocks import Axis, AxisBlock
from g_pt.permutations.checks import Inputs, in_float64, plain_float64
from g_pt.permutations.rules import IDENTITIES, VIEWS, Axes, rule_for
from g_pt.runtime.guards import GuardAnswers

CHOICES = (
    "Declare the spec by hand, PermutationSpec({tensor name: (group or None per axis)}), "
    "or go without, PermutationSpec.none(layout)."
)
# Operations that make units of their own, and the axis of their output that holds them.
MAKERS = {"linear": -1, "embedding": -1, "conv1d": 1, "conv2d": 1, "conv3d": 1} | {
    f"conv_transpose{n}d": 1 for n in (1, 2, 3)
}
CONTEXTS = frozenset(("wrap_with_autocast", "wrap_with_set_grad_enabled"))  # they run a part of the graph as it is
NO_VALUE = frozenset(("_assert_tensor_metadata", "_assert_async", "_assert_scalar", "sym_constrain_range_for_size"))


@dataclass
class Traced:
    """A tensor of the graph: its axes, or where its entries come from in a tensor that has them."""

    shape: tuple[int, ...]
    axes: Axes | None = None
    source: Traced | None = None
    index: Tensor | None = None  # positions in the source, if there is one
    name: str | None = None  # of a tensor of the network


def trace_axes(module: nn.Module, inputs: Inputs) -> dict[str, tuple[Axis, ...]]:
    """Axes of every tensor of the module's layout, as a `PermutationSpec` holds them; not yet verified.

    Raises:
        ValueError: the module cannot be traced, or does something to its units that is not known.
    """
    network, inputs = in_float64(module, inputs)
    program = _export(network, inputs)
    tracer = _Tracer(program, _first_names(network))
    for node in program.graph.nodes:
        tracer.read(node)
    return tracer.spec_axes(ParameterLayout.from_module(network))


def _export(network: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    args, kwargs = inputs.args, dict(inputs.kwargs)
    with torch.no_grad(), plain_float64(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with GuardAnswers() as guards:
            network(*copy.deepcopy(args), **copy.deepcopy(kwargs))  # a wrong shape is reported in the network's words
        try:
            with GuardAnswers(guards.answers):
                return torch.export.export(network, args, kwargs, strict=False)
        except GuardOnDataDependentSymNode as error:
            raise ValueError(
                f"{type(network).__name__} has control flow that depends on data (an `if` or a loop over the values "
                f"of a tensor), so its graph cannot be traced. {CHOICES}"
            ) from error
        except Exception as error:  # torch.export documents no class of errors
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{type(network).__name__} cannot be traced by torch.export: {reason}. {CHOICES}"
            ) from error


def _first_names(network: nn.Module) -> dict[str, str]:
    """The name in the layout of each tensor, by each of its names."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(tensor), name)
        for name, tensor in network.state_dict(keep_vars=True).items()
        if tensor.is_floating_point()
    }


class _Tracer:
    """Reads a graph node by node and collects what moves alike."""

    def __init__(self, program: torch.export.ExportedProgram, names: Mapping[str, str]) -> None:
        self.groups = AxisGroups()
        self.values: dict[fx.Node, Any] = {}
        self.tensors: dict[str, Traced] = {}  # of the network, by first name
        self.made: list[tuple[str, Axes]] = []  # weight of a layer, and the axis of units it makes
        self.names = {
            spec.arg.name: names.get(spec.target or "")
            for spec in program.graph_signature.input_specs
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER)
        }

    def read(self, node: fx.Node) -> None:
        """Find the axes of a node's value, or what it demands of its arguments."""
        if node.op == "placeholder":
            self.values[node] = self._placeholder(node)
        elif node.op == "output":
            for argument in node.all_input_nodes:
                self.groups.fix(*self._axes(self.values[argument]))
        elif node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(node.graph.owning_module)
            # a constant, or the part of the network that a higher-order operation runs
            constant = isinstance(value, Tensor)
            self.values[node] = Traced(tuple(value.shape), [fixed(size) for size in value.shape]) if constant else value
        elif node.op == "call_module":
            part: Any = node.graph.owning_module.get_submodule(str(node.target))  # type: ignore[union-attr]
            self.values[node] = self._run_part(part, node.args)
        elif isinstance(node.target, HigherOrderOperator) and node.target.name() in CONTEXTS:
            first = next(i for i, argument in enumerate(node.args) if isinstance(argument, fx.Node))
            self.values[node] = self._run_part(self.values[node.args[first]], node.args[first + 1 :])  # type: ignore[index]
        elif node.target is operator.getitem:
            self.values[node] = self.values[node.args[0]][node.args[1]]  # type: ignore[index]
        else:
            self.values[node] = self._call(node)

    def _placeholder(self, node: fx.Node) -> Traced:
        value = node.meta["val"]
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        name = self.names.get(node.name)
        # an input, a constant or a buffer outside the layout; or of no use here, so that its order has no known meaning
        if name is None or not node.users:
            return Traced(shape, [fixed(size) for size in shape])
        if name not in self.tensors:
            self.tensors[name] = Traced(shape, [self.groups.fresh(size) for size in shape], name=name)
        return self.tensors[name]

    def _run_part(self, part: fx.GraphModule, arguments: tuple[Any, ...]) -> Any:
        """Values of what a part of the graph returns: the body of `with torch.autocast(...)` and its like."""
        given = iter(arguments)
        for node in part.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self.values[next(given)]
            elif node.op == "output":
                return fx.node.map_arg(node.args[0], self.values.__getitem__)
            else:
                self.read(node)
        raise AssertionError("a graph ends with its output")

    def _call(self, node: fx.Node) -> Any:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            raise self._unknown(node)
        name = schema.name.partition("::")[2]
        if name in NO_VALUE:
            return None
        arguments = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        arguments |= {a.name: value for a, value in zip(schema.arguments, node.args, strict=False)}
        arguments |= node.kwargs
        if name in IDENTITIES and not arguments.get("train"):
            return self.values[node.args[0]]  # type: ignore[index]
        in_place = schema.is_mutable and name != "detach_"
        if in_place:
            name = name.removesuffix("_")  # what an operation in place gives, for the axes, is what it gives otherwise
        if name in VIEWS and not (name == "repeat_interleave" and isinstance(arguments.get("repeats"), fx.Node)):
            view = self._view(node)
            if in_place:
                self.values[node.args[0]] = view  # type: ignore[index]
            return view
        shape = _shape(node)
        axes = self._compute(node, name, arguments, shape)
        if isinstance(shape, list):
            return [Traced(s, a) for s, a in zip(shape, axes, strict=True)]
        if in_place:
            return self._written(node, axes)
        self._note_maker(name, arguments, axes)
        return Traced(shape, axes)

    def _compute(self, node: fx.Node, name: str, arguments: dict[str, Any], shape: Any) -> Any:
        operands = dict(fx.node.map_arg(arguments, lambda n: self._axes(self.values[n])))
        operands["used"] = {u.args[1] for u in node.users if u.target is operator.getitem and u.users}
        if "indices" in arguments and isinstance(arguments["indices"], (list, tuple)):
            operands["masks"] = [n is not None and n.meta["val"].dtype == torch.bool for n in arguments["indices"]]
        tags = getattr(node.target, "tags", ())
        rule = rule_for(name, torch.Tag.pointwise in tags)
        silent = arguments.get("train") is False or arguments.get("dropout_p") == 0.0  # its dropout is off
        random = torch.Tag.nondeterministic_seeded in tags and not silent
        try:
            if rule is not None and not random:
                return rule(self.groups, operands, shape)
        except NotImplementedError:
            pass
        moving = any(
            block.group is not None
            for argument in node.all_input_nodes
            for axis in self._axes(self.values[argument])
            for block in self.groups.resolve(axis)
        )
        if random:
            raise self._unknown(node, "is not defined, since it draws random numbers in eval mode too")
        if moving:
            raise self._unknown(node)
        # whatever it does to tensors in which nothing moves, nothing moves in what comes out
        if isinstance(shape, list):
            return [[fixed(size) for size in s] for s in shape]
        return [fixed(size) for size in shape]

    def _axes(self, value: Any) -> Axes:
        """Axes of a traced tensor, or of all tensors of a tuple one after the other."""
        if value is None:
            return []
        if isinstance(value, list):
            return [axis for part in value for axis in self._axes(part)]
        if value.axes is None:
            value.axes = view_axes(self.groups, self._axes(value.source), value.source.shape, value.index)
        return value.axes

    def _view(self, node: fx.Node) -> Any:
        """Positions in the source; axes are found when they are needed, for a chain of views at once."""
        value: Traced = self.values[node.args[0]]  # type: ignore[index]
        source, index = value.source or value, value.index
        if index is None:
            index = torch.arange(torch.Size(value.shape).numel()).view(value.shape)
        others = fx.node.map_arg(node.args[1:], lambda n: torch.empty(n.meta["val"].shape))
        assert callable(node.target)
        moved = node.target(index, *others, **{k: v for k, v in node.kwargs.items() if k != "memory_format"})
        if isinstance(moved, Tensor):
            view = Traced(tuple(moved.shape), source=source, index=moved)
            if moved.numel() > index.numel():
                self._axes(view)  # along a new axis all is the same: it is free, until a later view joins it to others
                return Traced(view.shape, view.axes)
            return view
        return [Traced(tuple(part.shape), source=source, index=part) for part in moved]

    def _written(self, node: fx.Node, axes: Axes) -> Any:
        """A tensor, or a view of one, after a change in place: what is written has the axes of what was there.

        Axes of a view of a part cut the groups of the whole, so that the rest of it moves by itself.
        """
        changed = self.values[node.args[0]]  # type: ignore[index]
        for there, written in zip(self._axes(changed), axes, strict=True):
            self.groups.unify(there, written)
        return changed

    def _note_maker(self, name: str, arguments: Mapping[str, Any], axes: Axes) -> None:
        if name in MAKERS:
            weight = self.values[arguments["weight"]]
            tensor = (weight.source or weight).name
            if tensor is not None:
                self.made.append((tensor, [axes[MAKERS[name]]]))

    def _unknown(self, node: fx.Node, verdict: str = "is not known") -> ValueError:
        modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
        where = f"in module {modules[-1]!r}" if modules else "in the network's own forward"
        return ValueError(
            f"what operation {node.target} {where} (node {node.name!r}) does to units that are reordered {verdict}. "
            f"{CHOICES}"
        )

    def spec_axes(self, layout: ParameterLayout) -> dict[str, tuple[Axis, ...]]:
        """The groups that are left, under the names of the layers that make their units."""
        resolved = {
            name: [self.groups.resolve(axis) for axis in self.tensors[name].axes or []]
            for name in layout.names
            if name in self.tensors
        }
        labels: dict[str, str] = {}
        for tensor, axes in [*self.made, *resolved.items()]:
            layer, _, kind = tensor.rpartition(".")
            stem = f"{layer if layer and ('weight' in kind or 'bias' in kind) else tensor}.units"
            for block in (block for axis in axes for block in self.groups.resolve(axis)):
                if block.group is not None and block.group not in labels:
                    taken = sum(label == stem or label.startswith(f"{stem}.") for label in labels.values())
                    labels[block.group] = f"{stem}.{taken}" if taken else stem
        return {
            name: tuple(_named(axis, labels) for axis in resolved[name]) if name in resolved else (None,) * len(shape)
            for name, shape in zip(layout.names, layout.shapes, strict=True)
        }


def _named(axis: tuple[AxisBlock, ...], labels: Mapping[str, str]) -> Axis:
    """The axis as a spec holds it: None, a group, or blocks."""
    named = tuple(b if b.group is None else b._replace(group=labels[b.group]) for b in axis)
    if all(block.group is None for block in named):
        return None
    return named[0].group if len(named) == 1 and named[0].inner == 1 else named


def _shape(node: fx.Node) -> Any:
    """Shape of a node's value, or a list of shapes."""
    value = node.meta["val"]
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, (tuple, list)):
        return [tuple(part.shape) for part in value]
    return ()
