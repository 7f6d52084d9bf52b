"""One forward pass for several small slices of the validation data, where that changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import TaskError
from etude.tasks.collect import join
from etude.tasks.loss.weighted import WeightedLoss
from etude.tasks.sources.source import Batch
from etude.tasks.task import Task
from etude.torch_internals import flattened, leaves_of, unflattened
from etude.training.evaluation.trace import Trace

Answer = tuple[WeightedLoss, Any, Any]
"""The loss, the output and the target of one slice."""

Answers = Callable[[Sequence[Batch]], Iterable[Answer]]
"""What computes the answers of a group of slices."""

ROUNDING = 2 / 3
"""Exponent of the type's precision within which outputs are equal: 2.4e-5 of the largest number in
float32, 3.7e-11 in float64. Kernels for another number of samples add in another order. In 16-bit
types, where it would be some percent, outputs must be equal to the bit."""

_SHORT = (torch.float16, torch.bfloat16)


class JoinedSlices:
    """Computes the answers of groups of slices, each group in one forward pass.

    The slices of a small validation set are small, and one forward pass for each takes longer than
    one for all. So the inputs of a group are joined, and the output is divided again.

    This is right only if the outputs of a sample do not depend on the others of its batch, which is
    tested in every evaluation: the first slice of a group is also computed alone. In the group it
    stands between the others, so that it differs if samples depend on those before or after them.
    Every slice is computed alone from there on, as it is for a task with `step`, if

    - computing the first slice, or a group, left a `Trace`: it drew random numbers, or changed what
      the network or the loss holds, such as a state that is carried on. That of a group is undone;
    - the first axis of an input or an output is not that of the samples, or an output is anything
      but a plain, dense tensor;
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
        """Yield the loss, the output and the target of each slice of a group.

        If the slices are joined, they do not depend on whether the group was the one to be tested.
        """
        found: list[Answer] = []
        outputs: list[Any] = []
        if len(batches) > 1 and self._joins is not False:
            trace = Trace(self._model, self._task.loss)
            if self._joins is None:
                found = [self._alone(batches[0])]
                self._joins = not trace.is_left()
            outputs = self._outputs(batches, trace) if self._joins else []
            if found:
                joined = self._confirmed(outputs[0], batches[0], found[0]) if outputs else None
                self._joins = joined is not None
                found = found if joined is None else [joined]
        yield from found
        for place, batch in enumerate(batches[len(found) :], start=len(found)):
            joins = self._joins and outputs
            yield self._answer(outputs[place], batch) if joins else self._alone(batch)

    def _alone(self, batch: Batch) -> Answer:
        with self._context():
            return self._task.weighed(self._model, batch)

    def _answer(self, output: Any, batch: Batch) -> Answer:
        with self._context():
            return self._task.compare(output, batch[-1]), output, batch[-1]

    def _confirmed(self, output: Any, batch: Batch, alone: Answer) -> Answer | None:
        """Return what a slice gives in a group; None if it differs from what it gives alone."""
        if not _are_equal(output, alone[1]):
            return None
        try:
            found = self._answer(output, batch)
        except TaskError:
            return None
        return found if _are_equal(found[0].mean, alone[0].mean) else None

    def _outputs(self, batches: Sequence[Batch], trace: Trace) -> list[Any]:
        """Return the output of each slice by one forward pass; empty if they cannot be joined."""
        middle = len(batches) // 2
        order = [*batches[1 : middle + 1], batches[0], *batches[middle + 1 :]]
        sizes = [_rows(batch) for batch in order]
        if not all(sizes):
            return []
        with self._context():
            try:
                *inputs, _ = join(order)
                output = self._model(*inputs)
            except Exception:  # noqa: BLE001  # each slice alone tells what is wrong, and with which
                output = None
        if trace.is_left():
            trace.undo()
            self._joins = False
            return []
        if output is None:
            return []
        leaves, shape = flattened(output)
        whole = all(_is_plain(leaf) and _first_axis(leaf) == sum(sizes) for leaf in leaves)
        if not (leaves and whole):
            return []
        parts = zip(*(leaf.split(sizes) for leaf in leaves), strict=True)
        found = [unflattened(list(part), shape) for part in parts]
        return [found[middle], *found[:middle], *found[middle + 1 :]]


def _rows(batch: Batch) -> int:
    """Return the length that the first axes of a batch's tensors have in common; 0 if none."""
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        return 0
    flat = all(isinstance(part, Tensor) for part in batch)
    lengths = {_first_axis(leaf) for leaf in (batch if flat else leaves_of(batch))}
    return lengths.pop() if len(lengths) == 1 else 0


def _first_axis(leaf: Any) -> int:
    return len(leaf) if isinstance(leaf, Tensor) and leaf.ndim else 0


def _is_plain(leaf: Any) -> bool:
    """Return whether an output is a dense tensor of torch's own class, without attributes.

    The parts of any other would lack what the loss may read: a class, attributes, or an order.
    """
    dense = type(leaf) is Tensor and leaf.layout == torch.strided and not leaf.is_nested
    return dense and not vars(leaf)


def _are_equal(joined: Any, alone: Any) -> bool:
    """Return whether outputs are equal up to rounding, in the largest number of each tensor."""
    (ours, shape), (theirs, own) = flattened(joined), flattened(alone)
    return shape == own and all(map(_is_equal, ours, theirs))


def _is_equal(one: Any, other: Any) -> bool:
    if not isinstance(other, Tensor) or (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    bound = 0.0 if other.dtype in _SHORT else torch.finfo(other.dtype).eps ** ROUNDING
    largest = other.abs().nan_to_num(0, 0, 0).amax().item() if other.numel() else 0.0
    return torch.allclose(one, other, rtol=0, atol=bound * largest, equal_nan=True)
