"""Records the layers of one forward and backward pass: outputs, gradients, and the trunk."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from etude.layerwise.flow import tensors_in
from etude.randomness import RandomState

Row = tuple[str, str, tuple[int, ...], float, float, float | None, float | None, bool]

INPUT = "input"
"""The name of the row for what the network reads."""


@dataclass(eq=False)
class _Station:
    """The output of one layer, or the input.

    `nodes` are the nodes of the graph that made it, of an input the one that collects its gradient.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    mean: float
    deviation: float
    nodes: list[Any]
    squares: list[float] = field(default_factory=list)
    trunk: bool = False

    @property
    def gradient(self) -> float | None:
        """The norm of its gradient; None if none came."""
        return math.sqrt(math.fsum(self.squares)) if self.squares else None


class ChainRecorder:
    """Watches the first forward pass of a model, and the backward pass that follows.

    With `newest`, it starts anew at every forward pass that computes a gradient: one whose gradient
    overflowed float16 is repeated with another batch.

    A row is a layer: the call of a module that calls no other one, or whose own code makes a new
    output of what the modules inside it return, such as a residual block.

    Args:
        model: The network; its hooks are removed by `close`.
        newest: Whether the newest forward pass counts.

    Attributes:
        gradients: The gradient of every parameter, as the backward pass gives it.
        random: The random state before the forward pass; None before there was one.
        unchained: Why no trunk is known; empty if one is.
    """

    def __init__(self, model: nn.Module, *, newest: bool = False) -> None:
        self.newest = newest
        self.gradients: dict[str, Tensor] = {}
        self.random: RandomState | None = None
        self.unchained = "the network itself is not called, only parts of it"
        self._root = model
        self._stations: list[_Station] = []
        self._calls: dict[str, int] = {}
        self._done = False
        self._handles: list[Any] = []
        for name, module in model.named_modules():
            self._watch(name, module)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                hook = self._noting(name)
                self._handles.append(
                    parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
                )

    def close(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def divide(self, factor: float) -> None:
        """Divide every gradient by the factor of the loss from which it was computed."""
        for gradient in self.gradients.values():
            gradient.div_(factor)
        for station in self._stations:
            station.squares = [square / factor**2 for square in station.squares]

    def _start_anew(self) -> None:
        """Forget what was seen."""
        self.gradients, self.random, self._done = {}, None, False
        self._stations, self._calls = [], {}

    def _watch(self, name: str, module: nn.Module) -> None:
        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if module is self._root and self.newest and self._done and torch.is_grad_enabled():
                self._start_anew()
            if self.random is None:
                self.random = RandomState.capture()
            if module is self._root and not self._done and not self._stations:
                return self._open(args), kwargs
            return None

        def after(module: nn.Module, args: Any, output: Any) -> None:
            if self._done:
                return
            self._add(name or type(module).__name__, type(module).__name__, output)
            if module is self._root:
                self._done = True
                self._find_trunk(output)

        self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        self._handles.append(module.register_forward_hook(after))

    def _noting(self, name: str) -> Any:
        def hook(parameter: Tensor) -> None:
            if name not in self.gradients and parameter.grad is not None:
                gradient = parameter.grad.detach()
                self.gradients[name] = (
                    gradient.to_dense() if gradient.is_sparse else gradient.clone()
                )

        return hook

    def _open(self, args: Any) -> Any:
        """Return the arguments, with inputs of numbers that collect their gradient."""
        opened = tuple(
            a.detach().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a
            for a in args
        )
        inputs = [a for a in opened if isinstance(a, Tensor) and a.requires_grad]
        if inputs:
            ends = [x.expand_as(x).grad_fn.next_functions[0][0] for x in inputs]  # type: ignore[union-attr]
            self._put(INPUT, "", inputs, ends)
        return opened

    def _add(self, name: str, kind: str, output: Any) -> None:
        made = [t for t in tensors_in(output) if t.grad_fn is not None]
        known = {id(node) for station in self._stations for node in station.nodes}
        made = [t for t in made if id(t.grad_fn) not in known]
        if not made:
            return
        self._calls[name] = self._calls.get(name, 0) + 1
        if self._calls[name] > 1:
            name = f"{name} #{self._calls[name]}"
        self._put(name, kind, made, [t.grad_fn for t in made])

    def _put(self, name: str, kind: str, tensors: list[Tensor], nodes: list[Any]) -> None:
        values = tensors[0].detach().double()
        deviation = float(values.std(correction=0)) if values.numel() else math.nan
        mean = float(values.mean()) if values.numel() else math.nan
        station = _Station(name, kind, tuple(tensors[0].shape), mean, deviation, nodes)
        for tensor in tensors:
            tensor.register_hook(_squares_into(station))  # type: ignore[no-untyped-call]
        self._stations.append(station)

    def _find_trunk(self, output: Any) -> None:
        """Mark the stations through which every path from the input to the output goes."""
        ends = [t.grad_fn for t in tensors_in(output) if t.grad_fn is not None]
        if not ends or not self._stations:
            self.unchained = "the output has no gradient"
            return
        source = self._stations[0]
        goal = {id(node) for node in source.nodes}
        for station in self._stations:
            own = {id(node) for node in station.nodes}
            station.trunk = own == goal or (
                _reaches(ends, own, set()) and not _reaches(ends, goal, own)
            )
        self.unchained = ""

    def rows(self) -> list[Row]:
        """Return the layers, with the factors of those on the trunk."""
        found: list[Row] = []
        above: float | None = None
        for s in self._stations:
            gradient, factor = s.gradient, None
            if s.trunk:
                if above is not None and gradient:
                    factor = above / gradient
                above = gradient
            found.append((s.name, s.kind, s.shape, s.mean, s.deviation, gradient, factor, s.trunk))
        return found


def _squares_into(station: _Station) -> Any:
    def hook(gradient: Tensor | None) -> None:
        if gradient is None:  # of a second output that nothing reads, on a GPU
            return
        station.squares.append(float(gradient.detach().double().square().sum()))

    return hook


def _reaches(starts: Iterable[Any], goal: Collection[int], closed: Collection[int]) -> bool:
    """Return whether a path leads backward from some nodes to one of `goal`, past `closed`."""
    waiting = [node for node in starts if id(node) not in closed]
    seen = {id(node): node for node in waiting}  # held, since id() is reused otherwise
    while waiting:
        node = waiting.pop()
        if id(node) in goal:
            return True
        for following, _ in node.next_functions:
            if following is None or id(following) in seen or id(following) in closed:
                continue
            seen[id(following)] = following
            waiting.append(following)
    return False
