"""Folds: splits a task's training data into parts, each of which is held out once."""

from __future__ import annotations

from dataclasses import replace

import torch

from etude.errors import BadTypeError, BadValueError
from etude.tasks.task import Task


def folds_of(task: Task, count: int) -> list[Task]:
    """Return `count` tasks, each with another part of the training data as validation data.

    The parts are drawn at random, independently of the recipe's seed; their sizes differ by at most
    one sample. The task's validation data is not used.

    Args:
        task: The task whose training data is split.
        count: The number of folds.

    Raises:
        BadTypeError: If the samples of the data cannot be indexed.
        BadValueError: If there are fewer than two folds, or more than samples.

    >>> x = torch.zeros(10, 1)
    >>> loss = torch.nn.functional.mse_loss
    >>> whole = Task(lambda: torch.nn.Linear(1, 1), (x, x), valid=(x, x), loss=loss)
    >>> [fold.valid.samples for fold in folds_of(whole, 3)]
    [4, 3, 3]
    """
    data = task.train
    if data.samples is None or (why := data.why_whole()):
        why = why if data.samples is not None else "its samples are not counted"
        raise BadTypeError(
            f"folds={count} needs training data of which a part can be taken, and {why}: give "
            "tensors, a Dataset or a DataLoader in its plain order"
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
        rows, out = rest.sort().values, parts[held].sort().values
        fold = replace(task, train=data.part(rows), valid=data.held(out))
        origin = None if task.origin is None else task.origin.fold(rows, out)
        found.append(fold.known_as(None, origin))
    return found
