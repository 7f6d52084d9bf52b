"""What stands still has no say: its gradient reaches no norm, no average and no penalty."""

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
class Rest:
    """What stands still in one update, its multiplier being 0.

    Attributes:
        whole: Tensors of which no row moves.
        rows: By the identity of a tensor of which some rows move: the row ranges that never do.
        waiting: The same for rows that do not move yet. Their averages go on, since they share
            the tensor's count of updates.
    """

    whole: tuple[Tensor, ...] = ()
    rows: Mapping[int, tuple[Span, ...]] = field(default_factory=dict)
    waiting: Mapping[int, tuple[Span, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.whole or self.rows or self.waiting)

    def spans(self, tensor: Tensor) -> tuple[Span, ...]:
        """Return the row ranges of a tensor that stand still while others move."""
        return (*self.rows.get(id(tensor), ()), *self.waiting.get(id(tensor), ()))

    @torch.no_grad()
    def silence(self, parameters: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Drop the gradient of what stands still, except that of rows that wait.

        Args:
            parameters: Those that are about to be updated.

        Returns:
            The tensors that stand still as a whole, each with the gradient it had.
        """
        dropped = []
        still = {id(tensor) for tensor in self.whole}
        for parameter in parameters:
            if id(parameter) in still:
                if parameter.grad is not None:
                    dropped.append((parameter, parameter.grad))
                parameter.grad = None
            elif parameter.grad is not None:
                for span in self.rows.get(id(parameter), ()):
                    for rows in gradient_rows(parameter, span):
                        rows.zero_()
        return dropped

    def moving(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Return the weights, or views of their rows, that move."""
        still = {id(tensor) for tensor in self.whole}
        found: list[Tensor] = []
        for weight in weights:
            if id(weight) in still:
                continue
            spans = self.spans(weight)
            found += [weight[a:b] for a, b in _between(spans, len(weight))] if spans else [weight]
        return found

    def only_moving(self, weight: Tensor) -> Tensor:
        """Return the values of a weight, 0 in rows that stand still."""
        values, spans = weight.detach(), self.spans(weight)
        if spans:
            values = values.clone()
            for first, last in spans:
                values[first:last] = 0
        return values


def gradient_rows(parameter: Tensor, span: Span) -> Iterator[Tensor]:
    """Yield the entries of some rows of a gradient, as views that can be written to."""
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
    """Return the row ranges that no span holds."""
    found, place = [], 0
    for first, last in [*sorted(spans), (rows, rows)]:
        if place < first:
            found.append((place, first))
        place = max(place, last)
    return found


class Resting:
    """Says for every update what stands still.

    Args:
        tensors: Each with its rows and their multipliers.
    """

    def __init__(self, tensors: Sequence[tuple[Tensor, tuple[PlanRow, ...]]]) -> None:
        can = [(t, rows) for t, rows in tensors if any(_may_rest(row) for row in rows)]
        self._tensors = can
        self.frozen: tuple[Tensor, ...] = tuple(
            tensor for tensor, rows in can if all(row.multiplier == 0.0 for row in rows)
        )
        """Tensors that never move."""

    def __bool__(self) -> bool:
        return bool(self._tensors)

    def at(self, multipliers: Mapping[int, float]) -> Rest:
        """Return what stands still.

        Args:
            multipliers: Of the update, by the identity of the row.
        """
        whole = []
        rows: dict[int, tuple[Span, ...]] = {}
        waiting: dict[int, tuple[Span, ...]] = {}
        for tensor, own in self._tensors:
            still = [row for row in own if multipliers[id(row)] == 0]
            if len(still) == len(own):
                whole.append(tensor)
                continue
            for row in still:
                place = waiting if isinstance(row.multiplier, Schedule) else rows
                place[id(tensor)] = (*place.get(id(tensor), ()), *row.spans)
        return Rest(tuple(whole), rows, waiting)

    def rows(self) -> Iterator[PlanRow]:
        """Yield every row that may stand still, or shares a tensor with one that may."""
        for _, rows in self._tensors:
            yield from rows

    def bound(self, swap: Mapping[int, PlanRow]) -> Resting:
        """Return the same with other rows, by the identity of the old ones."""
        return Resting([(t, tuple(swap[id(row)] for row in rows)) for t, rows in self._tensors])


def _may_rest(row: PlanRow) -> bool:
    return isinstance(row.multiplier, Schedule) or row.multiplier == 0.0


class KeptCounts:
    """Keeps what an optimizer counts in a group while the whole group stands still.

    Some optimizers keep the number of updates, or an average's weight, in the group: these begin
    when the group begins to move, as the state of its tensors does.

    Args:
        optimizer: Whose groups they are.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._kept: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def keep(self, still: set[int]) -> None:
        """Remember the values of every group all of whose tensors stand still.

        Args:
            still: The identities of the tensors.
        """
        self._kept = [
            (group, {name: value for name, value in group.items() if name != "params"})
            for group in self._optimizer.param_groups
            if still and all(id(parameter) in still for parameter in group["params"])
        ]

    def put_back(self) -> None:
        """Put them back after the step."""
        for group, values in self._kept:
            for name in [name for name in group if name not in values and name != "params"]:
                del group[name]
            group.update(values)
        self._kept = []
