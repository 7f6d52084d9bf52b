"""One forward pass for several small slices of the validation data, where that changes nothing."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from etude.tasks.collect import join
from etude.tasks.loss.weighted import WeightedLoss
from etude.tasks.sources.source import Batch
from etude.tasks.task import Task
from etude.torch_internals import flattened, leaves_of, unflattened, version_of

Answer = tuple[WeightedLoss, Any, Any]
"""The loss, the output and the target of one slice."""

Answers = Callable[[Sequence[Batch]], Iterable[Answer]]
"""What computes the answers of a group of slices."""


class JoinedSlices:
    """Computes the answers of groups of slices, each group in one forward pass.

    The slices of a small validation set are small, and one forward pass for each would take most of
    the time of an evaluation. So the inputs of a group are joined, and the output is divided again.

    This is right only if the outputs of a sample do not depend on the others of its batch, which is
    tested in every evaluation: the first slice is also computed alone. Every slice is computed
    alone from there on, as it is for a task with `step`, if

    - that pass changed a buffer or an attribute of a module, such as a state that is carried on;
    - the first axis of an input or an output is not that of the samples;
    - its output or its loss differs from that in the group by more than rounding.

    Args:
        task: The task.
        model: The network, in evaluation mode.
        context: A factory of the context of a forward pass.
    """

    def __init__(
        self, task: Task, model: nn.Module, context: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self._task, self._model, self._context = task, model, context
        self._joins = None if task.step is None else False  # None: not tested yet

    def answers(self, batches: Sequence[Batch]) -> Iterator[Answer]:
        """Yield the loss, the output and the target of each slice of a group."""
        rest = list(batches)
        outputs: list[Any] = []
        if len(batches) > 1 and self._joins is None:
            before = _state_of(self._model)
            first = self._alone(rest.pop(0))
            if not _is_as_before(self._model, before):
                self._joins = False
            elif outputs := self._outputs(batches):
                again = self._answer(outputs.pop(0), batches[0])
                self._joins = _are_equal((again[0].mean, again[1]), (first[0].mean, first[1]))
            yield first
        elif len(batches) > 1 and self._joins:
            outputs = self._outputs(batches)
        for output, batch in zip_longest(outputs if self._joins else [], rest):
            yield self._alone(batch) if output is None else self._answer(output, batch)

    def _alone(self, batch: Batch) -> Answer:
        with self._context():
            return self._task.weighed(self._model, batch)

    def _answer(self, output: Any, batch: Batch) -> Answer:
        with self._context():
            return self._task.compare(output, batch[-1]), output, batch[-1]

    def _outputs(self, batches: Sequence[Batch]) -> list[Any]:
        """Return the output of each slice by one forward pass; empty if they cannot be joined."""
        sizes = [_rows(batch) for batch in batches]
        if not all(sizes):
            return []
        with self._context():
            try:
                *inputs, _ = join(batches)
                output = self._model(*inputs)
            except Exception:  # noqa: BLE001  # each slice alone tells what is wrong, and with which
                return []
        leaves, shape = flattened(output)
        if any(_first_axis(leaf) != sum(sizes) for leaf in leaves):
            return []
        parts = zip(*(leaf.split(sizes) for leaf in leaves), strict=True)
        return [unflattened(list(part), shape) for part in parts]


def _rows(batch: Batch) -> int:
    """Return the length that the first axes of a batch's tensors have in common; 0 if none."""
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        return 0
    flat = all(isinstance(part, Tensor) for part in batch)
    lengths = {_first_axis(leaf) for leaf in (batch if flat else leaves_of(batch))}
    return lengths.pop() if len(lengths) == 1 else 0


def _first_axis(leaf: Any) -> int:
    return len(leaf) if isinstance(leaf, Tensor) and leaf.ndim else 0


def _state_of(model: nn.Module) -> tuple[list[Any], list[int]]:
    """Return what differs in identity or value once a buffer or an attribute was changed."""
    values: list[Any] = []
    for module in model.modules():
        values += vars(module).values()
    buffers = list(model.buffers())
    return values + buffers, [version_of(buffer) for buffer in buffers]


def _is_as_before(model: nn.Module, before: tuple[list[Any], list[int]]) -> bool:
    values, versions = _state_of(model)
    same = len(values) == len(before[0]) and all(map(operator.is_, values, before[0]))
    return same and versions == before[1]


def _are_equal(joined: Any, alone: Any) -> bool:
    """Return whether outputs are equal up to rounding, in the largest number of each."""
    pairs = list(zip(leaves_of(joined), leaves_of(alone), strict=True))
    return all(map(_is_equal, *zip(*pairs, strict=True)))


def _is_equal(one: Tensor, other: Tensor) -> bool:
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    bound = torch.finfo(other.dtype).eps ** 0.5
    largest = other.abs().nan_to_num(0, 0, 0).amax().item() if other.numel() else 0.0
    return torch.allclose(one, other, rtol=bound, atol=bound * largest, equal_nan=True)
