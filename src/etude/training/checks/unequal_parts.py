"""Warns of a loss that is not the mean over its samples, and whose weights are unknown."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import TaskError
from etude.randomness import random_state_kept
from etude.tasks.sources.data import Batch
from etude.tasks.task import Task
from etude.training.state.snapshot import buffers_kept

SLICES = "Slices of the validation data are weighted by their numbers of samples. "

ROUNDING = 1e-3
"""The largest relative difference that may be roundoff."""


def warn_of_unequal_parts(
    task: Task, model: nn.Module, batch: Batch, *, accumulates: bool = True
) -> None:
    """Compare the loss of a batch with the mean of its halves' losses, and warn if they differ.

    Only a loss of (output, target) is checked, if its weight is unknown and it draws no random
    numbers. A loss that depends on the whole batch in another way differs too, so the warning
    only gives the two values.

    Args:
        task: The task with the loss.
        model: The network.
        batch: A batch.
        accumulates: Whether an update has several batches. The validation loss is right without
            a weight if the loss is a sum of means whose weights are known.
    """
    if task.step is not None:
        return
    with random_state_kept(0), buffers_kept(model):
        try:
            loss, output, target = task.weighed(model, batch)
            if loss.weight is not None or (loss.terms and not accumulates):
                return
            if (rows := _rows(output, target)) < 2:
                return
            middle = rows // 2
            with torch.no_grad():
                whole, again = (_loss(task, output, target) for _ in range(2))
                first = _loss(task, output[:middle], target[:middle])
                second = _loss(task, output[middle:], target[middle:])
        except TaskError:
            return
    parts = (middle * first + (rows - middle) * second) / rows
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


def _loss(task: Task, output: Any, target: Any) -> float:
    return float(task.compare(output, target).mean)


def _rows(output: Any, target: Any) -> int:
    """Return the number of samples of a batch; 0 if output and target do not agree on it."""
    if isinstance(output, Tensor) and isinstance(target, Tensor) and output.ndim and target.ndim:
        return len(output) if len(output) == len(target) else 0
    return 0
