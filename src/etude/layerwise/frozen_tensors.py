"""Frozen tensors and rows: their gradients are left out of norms, averages and penalties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from etude.layerwise.planning import PlanRow
from etude.schedules import Schedule

Span = tuple[int, int]


@dataclass(frozen=True)
class FrozenTensors:
    """The tensors and rows that are frozen in one update: their multiplier is 0.

    Attributes:
        whole: Tensors of which all rows are frozen.
        rows: id(tensor) -> row ranges that are frozen for the whole run, for tensors with other
            rows that train.
        waiting: The same for rows that are frozen for a time. Their averages continue, because
            they share the tensor's count of updates.
    """

    whole: tuple[Tensor, ...] = ()
    rows: Mapping[int, tuple[Span, ...]] = field(default_factory=dict)
    waiting: Mapping[int, tuple[Span, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.whole or self.rows or self.waiting)

    def spans(self, tensor: Tensor) -> tuple[Span, ...]:
        """Return the row ranges of a tensor that are frozen while other rows train."""
        return (*self.rows.get(id(tensor), ()), *self.waiting.get(id(tensor), ()))

    @torch.no_grad()
    def drop_gradients(self, parameters: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Drop the gradients of frozen tensors and rows, except of rows frozen for a time.

        Args:
            parameters: The parameters that are about to be updated.

        Returns:
            The tensors that are frozen as a whole, each with its gradient.
        """
        dropped = []
        frozen = {id(tensor) for tensor in self.whole}
        for parameter in parameters:
            if id(parameter) in frozen:
                if parameter.grad is not None:
                    dropped.append((parameter, parameter.grad))
                parameter.grad = None
            elif parameter.grad is not None:
                for span in self.rows.get(id(parameter), ()):
                    for rows in gradient_rows(parameter, span):
                        rows.zero_()
        return dropped

    def trained(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Return the weights, or views of their rows, that are not frozen."""
        frozen = {id(tensor) for tensor in self.whole}
        found: list[Tensor] = []
        for weight in weights:
            if id(weight) in frozen:
                continue
            spans = self.spans(weight)
            found += [weight[a:b] for a, b in _between(spans, len(weight))] if spans else [weight]
        return found

    def trained_values(self, weight: Tensor) -> Tensor:
        """Return the values of a weight, with 0 in frozen rows."""
        values, spans = weight.detach(), self.spans(weight)
        if spans:
            values = values.clone()
            for first, last in spans:
                values[first:last] = 0
        return values


def gradient_rows(parameter: Tensor, span: Span) -> Iterator[Tensor]:
    """Yield rows of a gradient, as writable views."""
    gradient = parameter.grad
    if gradient is None:
        return
    if not gradient.is_sparse:
        yield gradient[span[0] : span[1]]
        return
    parameter.grad = gradient = gradient.coalesce()
    index, values = gradient.indices()[0], gradient.values()
    for place in ((index >= span[0]) & (index < span[1])).nonzero().flatten().tolist():
        yield values[place]


def _between(spans: Sequence[Span], rows: int) -> list[Span]:
    """Return the row ranges outside of the spans."""
    found, place = [], 0
    for first, last in [*sorted(spans), (rows, rows)]:
        if place < first:
            found.append((place, first))
        place = max(place, last)
    return found


class FreezePlan:
    """Determines for every update which tensors and rows are frozen.

    Args:
        tensors: The tensors, each with its rows and their multipliers.
    """

    def __init__(self, tensors: Sequence[tuple[Tensor, tuple[PlanRow, ...]]]) -> None:
        self._tensors = [(t, rows) for t, rows in tensors if any(_may_freeze(row) for row in rows)]
        self.frozen: tuple[Tensor, ...] = tuple(
            tensor for tensor, rows in self._tensors if all(row.multiplier == 0.0 for row in rows)
        )
        """Tensors that are frozen for the whole run."""

    def __bool__(self) -> bool:
        return bool(self._tensors)

    def at(self, multipliers: Mapping[int, float]) -> FrozenTensors:
        """Return the tensors and rows that are frozen in an update.

        Args:
            multipliers: id(row) -> its multiplier in this update.
        """
        whole = []
        rows: dict[int, tuple[Span, ...]] = {}
        waiting: dict[int, tuple[Span, ...]] = {}
        for tensor, own in self._tensors:
            frozen = [row for row in own if multipliers[id(row)] == 0]
            if len(frozen) == len(own):
                whole.append(tensor)
                continue
            for row in frozen:
                place = waiting if isinstance(row.multiplier, Schedule) else rows
                place[id(tensor)] = (*place.get(id(tensor), ()), *row.spans)
        return FrozenTensors(tuple(whole), rows, waiting)

    def rows(self) -> Iterator[PlanRow]:
        """Yield every row of a tensor that has a row which may be frozen."""
        for _, rows in self._tensors:
            yield from rows

    def bound(self, swap: Mapping[int, PlanRow]) -> FreezePlan:
        """Return the same with other rows, given as id(old row) -> new row."""
        return FreezePlan([(t, tuple(swap[id(row)] for row in rows)) for t, rows in self._tensors])


def _may_freeze(row: PlanRow) -> bool:
    return isinstance(row.multiplier, Schedule) or row.multiplier == 0.0


class KeptCounts:
    """Restores an optimizer's counters in a group while the whole group is frozen.

    Some optimizers store the number of updates, or an average's weight, in the group. These
    counters must start when the group starts to train, like the state of its tensors.

    Args:
        optimizer: The optimizer whose groups are restored.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._kept: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def keep(self, frozen: set[int]) -> None:
        """Save the values of every group whose tensors are all frozen.

        Args:
            frozen: The id() of each frozen tensor.
        """
        self._kept = [
            (group, {name: value for name, value in group.items() if name != "params"})
            for group in self._optimizer.param_groups
            if frozen and all(id(parameter) in frozen for parameter in group["params"])
        ]

    def put_back(self) -> None:
        """Restore the saved values after the step."""
        for group, values in self._kept:
            for name in [name for name in group if name not in values and name != "params"]:
                del group[name]
            group.update(values)
        self._kept = []
