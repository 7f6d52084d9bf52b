"""Metrics of the whole validation set: called once on all of it, or updated slice by slice."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import TaskError, kind_of
from etude.tasks.sources.nested import tensors_of

IGNORED = -100
"""The target that is ignored, such as padding: torch's losses ignore it by default."""

GROUPS = 16
"""Number of groups of slices; each is left out once, to estimate the noise of a metric."""

Piece = tuple[Any, Any]


class Collector(ABC):
    """Collects the outputs and targets of one evaluation, and computes the metric."""

    @abstractmethod
    def piece(self, output: Any, target: Any) -> Any:
        """Return what the metric needs of one slice: tensors and plain values."""

    @abstractmethod
    def keep(self, piece: Any) -> None:
        """Add what `piece` returned of one slice."""

    def add(self, output: Any, target: Any) -> None:
        """Add the outputs and targets of one slice."""
        self.keep(self.piece(output, target))

    @abstractmethod
    def result(self) -> tuple[float, tuple[float, ...]]:
        """Return the metric, and its value for each slice or group of slices if these are kept."""

    def why(self) -> str:
        """Return why the metric is NaN, or an empty text if the reason is unknown."""
        return ""


@dataclass(frozen=True)
class WholeMetric:
    """A metric that is called once, on all outputs and all targets of the validation data.

    Outputs and targets are gathered in CPU memory.

    Attributes:
        name: What to call it.
        function: (outputs, targets) -> a number.
        maximize: Whether larger is better; None if unknown.
        noise: Whether to estimate its noise too, by calling it again with each sixteenth of the
            slices left out. Tuning by a metric needs the noise.
        outputs: For a task with `step`, which returns no outputs: (model, batch) -> (output,
            target).
    """

    name: str
    function: Callable[[Any, Any], Any]
    maximize: bool | None
    noise: bool = False
    outputs: Callable[[Any, Any], Piece] | None = None

    def collector(self) -> Collector:
        """Return a collector for one evaluation."""
        return _Gathering(self, outputs=self.outputs)

    def of(self, pieces: Sequence[Piece]) -> float:
        """Return the metric of several slices together."""
        outputs, targets = zip(*pieces, strict=True)
        try:
            joined = join(outputs), join(targets)
        except RuntimeError as error:
            raise TaskError(
                f"metric {self.name!r}: the outputs of several batches cannot be concatenated "
                f"({error}): give mean_metric(name, function, maximize=...) for a mean over "
                "batches, or a Metric of sums"
            ) from error
        return number(self.name, self.function(*joined))


@dataclass(frozen=True)
class StreamedMetric:
    """A metric that keeps its own state: updated with every slice, and computed once.

    Attributes:
        name: What to call it.
        metric: An object with `update(output, target)`, `compute()` and `reset()`, such as those of
            torchmetrics. It is copied and never changed.
        maximize: Whether larger is better; None if unknown.
        noise: As in WholeMetric; if True, the slices are kept in memory.
    """

    name: str
    metric: Any
    maximize: bool | None
    noise: bool = False

    def collector(self) -> Collector:
        """Return a collector for one evaluation."""
        return _Gathering(self) if self.noise else _Streaming(self)

    def of(self, pieces: Sequence[Piece]) -> float:
        """Return the metric of several slices together."""
        streaming = _Streaming(self)
        for piece in pieces:
            streaming.add(*piece)
        return streaming.result()[0]


@dataclass
class _Gathering(Collector):
    metric: WholeMetric | StreamedMetric
    pieces: list[Piece] = field(default_factory=list)
    outputs: Callable[[Any, Any], Piece] | None = None

    def piece(self, output: Any, target: Any) -> Piece:
        if self.outputs is not None:
            output, target = self.outputs(output, target)
        return on_cpu(output), on_cpu(target)

    def keep(self, piece: Piece) -> None:
        self.pieces.append(piece)

    def result(self) -> tuple[float, tuple[float, ...]]:
        whole = self.metric.of(self.pieces)
        return whole, self._parts(whole) if self.metric.noise else ()

    def _parts(self, whole: float) -> tuple[float, ...]:
        count = min(GROUPS, len(self.pieces))
        bounds = [len(self.pieces) * i // count for i in range(count + 1)]
        rest = [self.pieces[:low] + self.pieces[high:] for low, high in pairwise(bounds)]
        return pseudo_values(whole, [self.metric.of(r) if r else math.nan for r in rest])

    def why(self) -> str:
        try:
            targets = join([target for _, target in self.pieces])
        except RuntimeError:
            return ""
        return one_class(targets)


class _Streaming(Collector):
    def __init__(self, of: StreamedMetric) -> None:
        self.name = of.name
        self.metric = copy.deepcopy(of.metric)
        self.metric.reset()

    def piece(self, output: Any, target: Any) -> Piece:
        return output, target

    def keep(self, piece: Piece) -> None:
        output, target = piece
        first = next(tensors_of(output), None)
        if isinstance(self.metric, nn.Module) and first is not None:
            self.metric.to(first.device)
        self.metric.update(output, target)

    def result(self) -> tuple[float, tuple[float, ...]]:
        return number(self.name, self.metric.compute()), ()


def pseudo_values(whole: float, without: Sequence[float]) -> tuple[float, ...]:
    """Return n θ - (n - 1) θ₍ᵢ₎ for each value θ₍ᵢ₎ with one of n groups left out.

    Their mean is θ up to its bias, and their standard error estimates that of θ. They can be
    compared group by group, like the values that a mean is taken over.

    >>> [round(v, 6) for v in pseudo_values(2.0, [2.5, 1.5])]
    [1.5, 2.5]

    Source: the jackknife, Tukey 1958; Efron & Stein 1981.
    """
    count = len(without)
    return tuple(count * whole - (count - 1) * value for value in without)


def one_class(target: Any) -> str:
    """Return a text that says so if all targets that count have one class, else an empty text.

    >>> one_class(torch.tensor([1, 1, -100]))
    'its targets hold one class only, 1'
    """
    if not isinstance(target, Tensor) or not target.numel():
        return ""
    asked = target[target != IGNORED]
    if not asked.numel():
        return f"all its targets are {IGNORED}, which is ignored"
    first = asked.flatten()[0]
    whole = not asked.is_floating_point() or bool(first.frac() == 0)
    if whole and bool((asked == first).all()):
        return f"its targets hold one class only, {int(first)}"
    return ""


def number(name: str, value: Any) -> float:
    """Return a metric's value as a float.

    Raises:
        TaskError: If it is not one number.
    """
    if isinstance(value, Tensor) and value.numel() != 1:
        raise TaskError(
            f"metric {name!r} returned a tensor of shape {tuple(value.shape)}: return one number"
        )
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TaskError(f"metric {name!r} returned {kind_of(value)}: return one number") from error


def on_cpu(value: Any) -> Any:
    """Return the outputs or targets of a batch, detached and in CPU memory."""
    return _mapped(value, lambda tensor: tensor.detach().cpu())


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(part, change) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(part, change) for part in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(part, change) for part in value)
    return value


def join(values: Sequence[Any]) -> Any:
    """Concatenate the outputs of several batches: tensors along their first axis.

    >>> join([{"a": torch.zeros(2, 3)}, {"a": torch.ones(1, 3)}])["a"].shape
    torch.Size([3, 3])
    """
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat([v.reshape(1) if v.ndim == 0 else v for v in values])
    if isinstance(first, Mapping):
        return {key: join([value[key] for value in values]) for key in first}
    if isinstance(first, (tuple, list)):
        if not any(isinstance(part, (Tensor, Mapping, tuple, list)) for part in first):
            return type(first)(part for value in values for part in value)  # one item per sample
        parts = [join(parts) for parts in zip(*values, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    return first if len(values) == 1 else list(values)
