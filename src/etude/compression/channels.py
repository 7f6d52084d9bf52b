"""Which channels of a network belong together, found by following one batch through its graph.

A channel that a layer makes can be removed if everything that reads it is known: the layer that
makes it loses a row, the batch normalisation behind it an entry, and each layer that reads it a
column. Channels that are added to each other, as at the end of a residual block, are removed
together (Li et al. 2017, arXiv:1608.08710; as one graph, Fang et al. 2023, arXiv:2301.12900).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from etude.compression.derived import owners
from etude.torch_internals import BATCH_NORMS, DROPOUTS, own_parameters

OUTPUT = "is the output of the model"
"""Why the channels of the last layer stay."""

CONVS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

ELEMENTWISE = (
    nn.Identity, nn.Sigmoid, nn.Tanh, nn.Softsign, nn.Softplus, nn.ReLU, nn.ReLU6, nn.LeakyReLU,
    nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
    nn.LogSigmoid, nn.Tanhshrink, nn.Threshold, *DROPOUTS,
)  # fmt: skip

POOLINGS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.Upsample, nn.ZeroPad1d, nn.ZeroPad2d,
)  # fmt: skip

SAME: frozenset[Any] = frozenset({
    "relu", "tanh", "sigmoid", "contiguous", "clone", "float", "double", "abs", "exp", "square",
    torch.relu, torch.tanh, torch.sigmoid, torch.abs, torch.exp, torch.square,
    F.relu, F.relu6, F.gelu, F.silu, F.elu, F.selu, F.leaky_relu, F.mish, F.softplus, F.hardswish,
    F.tanh, F.sigmoid, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.softsign, F.hardtanh,
    operator.neg,
})  # fmt: skip
"""Functions, and names of methods, that treat every number alone."""

SPATIAL: frozenset[Any] = frozenset({
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.adaptive_max_pool1d,
    F.adaptive_max_pool2d, F.interpolate,
})  # fmt: skip
"""Functions that treat every channel on axis 1 alone."""

TOGETHER: frozenset[Any] = frozenset({
    "add", "add_", "sub", "mul", "mul_", torch.add, torch.sub, torch.mul, operator.add,
    operator.iadd, operator.sub, operator.mul, operator.imul, operator.truediv,
})  # fmt: skip
"""Functions of two tensors, number by number: their channels are removed together."""

FLATTEN: frozenset[Any] = frozenset({"flatten", "view", "reshape", torch.flatten, torch.reshape})
MEANS: frozenset[Any] = frozenset({"mean", "sum", "amax", torch.mean, torch.sum, torch.amax})
ASKED: frozenset[Any] = frozenset({"size", "dim", getattr, operator.getitem})
"""What reads a shape; where it gives a tensor, the channels are not followed."""


@dataclass(eq=False)
class ChannelGroup:
    """Channels that can only be removed together.

    Attributes:
        size: How many there are.
        makers: The layers that make them, one row each.
        readers: The layers that read them, with how many columns belong to one channel.
        norms: The batch normalisations that they pass through.
        fixed: Why none can be removed; empty if they can.
    """

    size: int
    makers: list[str] = field(default_factory=list)
    readers: list[tuple[str, int]] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    fixed: str = ""
    _into: ChannelGroup | None = None

    @property
    def root(self) -> ChannelGroup:
        """The group that this one became part of."""
        return self if self._into is None else self._into.root

    def join(self, other: ChannelGroup) -> None:
        """Make another group part of this one."""
        mine, theirs = self.root, other.root
        if mine is theirs:
            return
        mine.makers += [one for one in theirs.makers if one not in mine.makers]
        mine.readers += [one for one in theirs.readers if one not in mine.readers]
        mine.norms += [one for one in theirs.norms if one not in mine.norms]
        mine.fixed = mine.fixed or theirs.fixed
        theirs._into = mine

    def fix(self, reason: str) -> None:
        """Note why its channels must stay, unless there is a reason already."""
        root = self.root
        # Of several reasons this one counts: a last layer is not masked either.
        root.fixed = reason if reason == OUTPUT else root.fixed or reason


@dataclass(frozen=True)
class ChannelPlace:
    """Where the channels of a group are in a tensor.

    Attributes:
        group: The group.
        axis: The axis of the channels.
        each: How many neighbours on the axis belong to one channel.
    """

    group: ChannelGroup
    axis: int
    each: int = 1


def channel_groups(model: nn.Module, inputs: Sequence[Any]) -> tuple[list[ChannelGroup], str]:
    """Return the groups of channels of a model, and why it could not be followed, if it could not.

    Args:
        model: The network, in evaluation mode; it is called once.
        inputs: What it is called with.

    Returns:
        The groups in the order of the graph, and a reason, empty if there are groups.
    """
    try:
        graph = fx.symbolic_trace(model)
        follower = Follower(graph, model)
        with torch.no_grad():
            follower.run(*inputs)
    except Exception as error:  # noqa: BLE001 - tracing runs the user's code on proxies
        return [], f"its graph cannot be followed ({type(error).__name__}: {error})"
    for known in owners(model).values():
        if len(known) > 1:
            follower.fix_layers(known, "shares its weights with another layer")
    for name in follower.last_layers():
        follower.outputs[name].fix(OUTPUT)
    found: dict[int, ChannelGroup] = {}
    for group in follower.made:
        found.setdefault(id(group.root), group.root)
    return list(found.values()), ""


class Follower(fx.Interpreter):
    """Calls the model node by node, and notes where the channels are."""

    def __init__(self, graph: fx.GraphModule, model: nn.Module) -> None:
        super().__init__(graph)
        self.nodes = list(graph.graph.nodes)
        self.layers = dict(model.named_modules())
        self.places: dict[fx.Node, ChannelPlace] = {}
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.made: list[ChannelGroup] = []
        self.outputs: dict[str, ChannelGroup] = {}
        self.inputs: dict[str, ChannelPlace] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Compute a node, and note where its channels are."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
        place = self._place(n, result)
        if place is not None:
            self.places[n] = place
        return result

    def fix_layers(self, parameters: Sequence[str], reason: str) -> None:
        """Let the channels stay that the layers of some parameters make or read."""
        for name in parameters:
            layer = name.rpartition(".")[0]
            if layer in self.outputs:
                self.outputs[layer].fix(reason)
            if layer in self.inputs:
                self.inputs[layer].group.fix(reason)

    def last_layers(self) -> list[str]:
        """Return the layers from which the output is made without another layer with weights."""
        waiting = [n for n in self.nodes if n.op == "output"]
        seen, found = set(waiting), []
        while waiting:
            n = waiting.pop()
            if n.op == "call_module" and str(n.target) in self.outputs:
                found.append(str(n.target))
                continue
            above = [one for one in n.all_input_nodes if one not in seen]
            seen.update(above)
            waiting += above
        return found

    def _place(self, n: fx.Node, result: Any) -> ChannelPlace | None:
        if n.op == "call_module":
            return self._of_module(n, str(n.target), result)
        if n.op in ("call_function", "call_method"):
            return self._of_function(n, n.target, result)
        return None

    def _fix(self, n: fx.Node, reason: str) -> None:
        for one in n.all_input_nodes:
            if one in self.places:
                self.places[one].group.fix(reason)

    # ---- modules -------------------------------------------------------------------------------

    def _of_module(self, n: fx.Node, name: str, result: Any) -> ChannelPlace | None:
        layer = self.layers[name]
        kind, nodes = type(layer), n.all_input_nodes
        node = nodes[0] if len(nodes) == 1 and n.args == (nodes[0],) else None
        place = None if node is None else self.places.get(node)
        if node is not None and isinstance(result, Tensor):
            if kind is nn.Linear:
                return self._of_layer(n, name, place, len(self.shapes[node]) - 1, result.ndim - 1)
            spatial = CONVS.index(kind) + 3 if kind in CONVS else 0
            if spatial and layer.groups == 1 and len(self.shapes[node]) == spatial:
                return self._of_layer(n, name, place, 1, 1)
            if place is None:
                return None
            if kind in ELEMENTWISE:
                return place
            if kind in POOLINGS and place.axis == 1 and place.each == 1:
                return place
            if kind in BATCH_NORMS and place.axis == 1 and place.each == 1:
                if name not in place.group.root.norms:
                    place.group.root.norms.append(name)
                return place
            if kind is nn.Flatten and layer.start_dim == 1 and result.ndim == 2:
                return self._flat(node, place)
        self._fix(n, f"goes into {name} ({kind.__name__}), where a channel cannot be removed")
        return None

    def _of_layer(
        self, n: fx.Node, name: str, place: ChannelPlace | None, axis: int, out: int
    ) -> ChannelPlace | None:
        """Note what a layer with weights reads and makes; called again, it is the same layer."""
        layer = self.layers[name]
        if place is not None and place.axis != axis:
            self._fix(n, f"goes into {name} on another axis than that of its channels")
            place = None
        before = self.inputs.get(name)
        if place is not None and before is None:
            self.inputs[name] = place
            place.group.root.readers.append((name, place.each))
        elif place is not None and before is not None:
            if before.each == place.each:
                before.group.join(place.group)
            else:
                before.group.fix(f"goes into {name} in two ways")
                place.group.fix(f"goes into {name} in two ways")
        if name in self.outputs:
            if before is not None and place is None:
                before.group.fix(f"goes into {name}, which also reads something else")
            elif before is None and place is not None:
                place.group.fix(f"goes into {name}, which also reads something else")
            return ChannelPlace(self.outputs[name], out)
        weight = own_parameters(layer).get("weight")
        size = 0 if weight is None else weight.shape[0]
        group = ChannelGroup(size, [name])
        if weight is None:
            group.fix("has no weight of its own")
        self.outputs[name] = group
        self.made.append(group)
        return ChannelPlace(group, out)

    # ---- functions -----------------------------------------------------------------------------

    def _of_function(self, n: fx.Node, target: Any, result: Any) -> ChannelPlace | None:
        nodes = [one for one in n.all_input_nodes if one in self.shapes]
        known = [self.places[one] for one in nodes if one in self.places]
        if not known:
            return None
        first = nodes[0]
        if not isinstance(result, Tensor):
            if target not in ASKED:
                self._fix(n, f"goes into {_named(target)}, where a channel cannot be removed")
            return None
        if len(nodes) == 1:
            if target in SAME or (target in TOGETHER and result.shape == self.shapes[first]):
                return known[0]
            if target in SPATIAL and known[0].axis == 1 and known[0].each == 1:
                return known[0]
            if target in FLATTEN and (place := self._flattened(first, known[0], result)):
                return place
            if target in MEANS and (place := self._reduced(n, first, known[0], result)):
                return place
        elif target in TOGETHER and len(nodes) == len(known) == 2:
            one, other = known
            alike = (one.axis, one.each) == (other.axis, other.each)
            if alike and self.shapes[first] == self.shapes[nodes[1]]:
                one.group.join(other.group)
                return one
        self._fix(n, f"goes into {_named(target)}, where a channel cannot be removed")
        return None

    def _flattened(self, node: fx.Node, place: ChannelPlace, result: Tensor) -> ChannelPlace | None:
        if result.ndim == 2 and result.shape[0] == self.shapes[node][0]:
            return self._flat(node, place)
        return None

    def _flat(self, node: fx.Node, place: ChannelPlace) -> ChannelPlace | None:
        """Return the place after all axes but the first were made one."""
        if place.axis != 1:
            place.group.fix("is flattened with another axis before it")
            return None
        return replace(place, each=place.each * math.prod(self.shapes[node][2:]))

    def _reduced(
        self, n: fx.Node, node: fx.Node, place: ChannelPlace, result: Tensor
    ) -> ChannelPlace | None:
        """Return the place after a mean over other axes."""
        asked = n.kwargs.get("dim", n.args[1] if len(n.args) > 1 else None)
        if asked is None:
            return None
        many = asked if isinstance(asked, (tuple, list)) else [asked]
        if not all(isinstance(one, int) for one in many):
            return None
        ndim = len(self.shapes[node])
        axes = {int(one) % ndim for one in many}  # type: ignore[arg-type]
        if place.axis in axes:
            return None
        below = 0 if result.ndim == ndim else sum(axis < place.axis for axis in axes)
        return replace(place, axis=place.axis - below)


def _named(target: str | Callable[..., Any]) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
