"""Folds: a task's training data cut into parts, each held out once."""

from __future__ import annotations

from dataclasses import replace

import torch

from etude.errors import BadTypeError, BadValueError
from etude.tasks.data import IndexedData
from etude.tasks.task import Task


def folds_of(task: Task, count: int) -> list[Task]:
    """Return `count` tasks: in each another part of the training data is the validation data.

    The parts are drawn once, at random and without regard to the recipe's seed, and differ in
    size by at most one sample. The task's own validation data is in none of them.

    Args:
        task: Whose training data is cut.
        count: How many folds.

    Raises:
        BadTypeError: If the data has no samples that can be picked by number.
        BadValueError: If there are fewer than two folds, or more than samples.

    >>> x = torch.zeros(10, 1)
    >>> loss = torch.nn.functional.mse_loss
    >>> whole = Task(lambda: torch.nn.Linear(1, 1), (x, x), valid=(x, x), loss=loss)
    >>> [fold.valid.samples for fold in folds_of(whole, 3)]
    [4, 3, 3]
    """
    data = task.train
    if not isinstance(data, IndexedData):
        raise BadTypeError(
            f"folds={count} needs training data whose samples can be picked by number: give "
            "tensors or a Dataset instead of a DataLoader"
        )
    if isinstance(count, bool) or not 2 <= count <= data.samples:
        raise BadValueError(
            f"folds={count!r} is out of bounds: give 2 to {data.samples}, the training samples"
        )
    order = torch.randperm(data.samples, generator=torch.Generator().manual_seed(0))
    parts = torch.tensor_split(order, count)
    found = []
    for held in range(count):
        rest = torch.cat([part for i, part in enumerate(parts) if i != held])
        train, valid = data.part(rest.sort().values), data.part(parts[held].sort().values)
        found.append(replace(task, train=train, valid=valid))
    return found
