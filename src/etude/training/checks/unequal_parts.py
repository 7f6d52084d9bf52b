"""Warns of a loss that is not the mean over its samples, and whose weights are unknown."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import TaskError
from etude.randomness import random_state_kept
from etude.tasks.collect import join
from etude.tasks.sources.data import Batch
from etude.tasks.sources.nested import mapped
from etude.tasks.task import Task
from etude.training.state.snapshot import buffers_kept, modes_kept

SLICES = "Slices of the validation data are weighted by their numbers of samples. "

ROUNDING = 1e-3
"""The largest relative difference that may be roundoff."""


def warn_of_unequal_parts(
    task: Task,
    model: nn.Module,
    batch: Batch,
    following: Callable[[], Batch] | None = None,
    *,
    accumulates: bool = True,
) -> None:
    """Compare the loss of a batch with the mean of its halves' losses, and warn if they differ.

    Only a loss whose weight is unknown, and that draws no random numbers, is checked. A loss that
    depends on the whole batch in another way differs too, so the warning only gives the two values.
    A step is checked in evaluation mode, in which samples do not change each other's outputs.

    Args:
        task: The task with the loss or the step.
        model: The network.
        batch: A batch.
        following: Returns the batch after it; a batch of one sample is joined with it.
        accumulates: Whether an update has several batches. The validation loss is right without
            a weight if the loss is a sum of means whose weights are known.
    """
    with random_state_kept(0), buffers_kept(model), modes_kept(model):
        if task.step is not None:
            model.eval()
        try:
            if following is not None and _rows(batch) == 1:
                batch = join([batch, following()])
            loss, output, target = task.weighed(model, batch)
            if loss.weight is not None or (loss.terms and not accumulates):
                return
            given = batch if task.step is not None else (output, target)
            if (rows := _rows(given)) < 2:
                return
            middle = rows // 2
            first, second = (mapped(given, half) for half in (_before(middle), _from(middle)))
            with torch.no_grad():
                losses = [_loss(task, model, part) for part in (given, given, first, second)]
        except (TaskError, RuntimeError, StopIteration):  # for instance, of sequences that differ
            return
    whole, again, before, after = losses
    parts = (middle * before + (rows - middle) * after) / rows
    drawn = whole != again
    if drawn or not math.isfinite(whole) or math.isclose(whole, parts, rel_tol=ROUNDING):
        return
    slices = "" if loss.terms else SLICES
    warnings.warn(
        f"the loss of the first batch is {whole:.4g}, and the mean of its halves' losses "
        f"{parts:.4g}: it is no mean over the samples, or samples weigh differently in it. "
        f"{slices}Each accumulated batch counts the same; if that is wrong, return (sum, weight) "
        "in place of the mean, see docs/tasks.md",
        stacklevel=6,
    )


def _loss(task: Task, model: nn.Module, given: Any) -> float:
    """Return the loss of a batch of a step, or of an output and a target."""
    if task.step is not None:
        return float(task.forward(model, given)[0])
    return float(task.compare(*given).mean)


def _before(middle: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor[:middle]


def _from(middle: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor[middle:]


def _rows(given: Any) -> int:
    """Return the number of samples; 0 if something is no tensor, or the numbers do not agree."""
    found: set[int] = set()
    mapped(given, lambda leaf: found.add(_length(leaf)))
    return found.pop() if len(found) == 1 else 0


def _length(leaf: Any) -> int:
    return len(leaf) if isinstance(leaf, Tensor) and leaf.ndim else 0
