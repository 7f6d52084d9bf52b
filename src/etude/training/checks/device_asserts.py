"""Refuses labels and indices out of bounds before a GPU computes with them.

On a GPU such a number fails an assertion inside a kernel. After it, the process cannot use the GPU
any more, and the message names neither the number nor its bounds. A CPU raises an error instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from etude.errors import BadValueError, TaskError
from etude.tasks.misfit import labels_out_of_bounds
from etude.tasks.sources.data import Batch, TensorData
from etude.tasks.task import Task

Given = Mapping[str, Any]
"""The arguments of a call, by name."""


class BoundsChecked(TorchFunctionMode):
    """Raises an error where a kernel of a GPU would fail an assertion, inside a block.

    A CPU raises one there too. Reading the numbers waits for the device at each call: this is for
    checks before training.

    Attributes:
        labels: Of each loss of class numbers: the numbers, how many classes there are, and the
            number that is ignored.

    >>> with BoundsChecked():
    ...     F.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 3]))
    Traceback (most recent call last):
    etude.errors.BadValueError: labels go to 3, the model has 3 outputs: labels are 0 to 2
    """

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[tuple[Tensor, int, int]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the arguments, then make the call."""
        kwargs = kwargs or {}
        look = _LOOKS.get(func)
        if look is not None:
            found = inspect.signature(func).bind(*args, **kwargs)
            found.apply_defaults()
            look(self, found.arguments)
        return func(*args, **kwargs)

    def of_classes(self, given: Given) -> None:
        """Look at class numbers."""
        scores, target = given["input"], given["target"]
        if not (isinstance(target, Tensor) and _is_whole(target) and scores.ndim):
            return
        classes = scores.shape[1 if scores.ndim > 1 else 0]
        ignored = given.get("ignore_index", 0)  # where none is ignored: 0 is always in bounds
        self.labels.append((target, classes, ignored))
        if bad := labels_out_of_bounds(target, classes, ignored):
            raise BadValueError(bad)

    def of_table(self, given: Given) -> None:
        """Look at the rows that are taken from a table of vectors."""
        index, table = given["input"], given["weight"]
        if _is_whole(index) and index.numel():
            low, high = int(index.min()), int(index.max())
            if low < 0 or high >= len(table):
                worst = low if low < 0 else high
                raise BadValueError(
                    f"an index is {worst}, the embedding has {len(table)} rows: indices are 0 to "
                    f"{len(table) - 1}"
                )

    def of_probabilities(self, given: Given) -> None:
        """Look at probabilities and their targets."""
        for name in ("input", "target"):
            values = given[name].detach()
            if bool(((values < 0) | (values > 1)).any()):
                raise BadValueError(
                    f"the {name} of binary_cross_entropy holds values outside of 0 to 1: give "
                    "probabilities, or take binary_cross_entropy_with_logits"
                )


_LOOKS: Mapping[Callable[..., Any], Callable[[BoundsChecked, Given], None]] = {
    F.cross_entropy: BoundsChecked.of_classes,
    F.nll_loss: BoundsChecked.of_classes,
    F.multi_margin_loss: BoundsChecked.of_classes,
    F.binary_cross_entropy: BoundsChecked.of_probabilities,
    F.embedding: BoundsChecked.of_table,
    F.embedding_bag: BoundsChecked.of_table,
}


def bounds_checked(device: torch.device) -> AbstractContextManager[BoundsChecked | None]:
    """Return a block that refuses numbers out of bounds; of a CPU, one that does nothing."""
    return nullcontext() if device.type == "cpu" else BoundsChecked()


def refuse_labels(task: Task, batch: Batch, seen: BoundsChecked) -> None:
    """Raise an error if a label anywhere in the data is out of bounds.

    Args:
        task: The task, whose loss compares the targets of its data as they are; of others nothing
            is known.
        batch: The batch that was looked at.
        seen: What was seen of the loss on that batch.

    Raises:
        TaskError: If there is one; the message gives the row.
    """
    if task.loss is None or not seen.labels or not isinstance(batch, tuple):
        return
    target, classes, ignored = seen.labels[0]
    if not (isinstance(batch[-1], Tensor) and torch.equal(batch[-1], target)):
        return
    for name, data in (("training", task.train), ("validation", task.valid)):
        if not isinstance(data, TensorData) or not isinstance(data.tensors, tuple):
            continue
        labels = data.tensors[-1]
        if not (bad := labels_out_of_bounds(labels, classes, ignored)):
            continue
        wrong = (labels != ignored) & ((labels < 0) | (labels >= classes))
        row = int(wrong.reshape(len(wrong), -1).any(1).nonzero()[0])
        row = row if data.origin is None else int(data.origin[row])
        raise TaskError(f"{name} row {row} has a label out of bounds: {bad}")


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool)
