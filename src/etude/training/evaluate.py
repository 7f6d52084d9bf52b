"""A model's loss and metric on the validation data, slice by slice."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import EtudeError, TaskError
from etude.randomness import random_state_kept
from etude.tasks.data import Batch
from etude.tasks.metrics import Metric
from etude.tasks.task import Task, describe
from etude.training.record import Evaluation

PARTS = 16
"""Slices a validation set is cut into at least (where it has as many samples)."""


def evaluate(
    task: Task,
    model: nn.Module,
    *,
    step: int = 0,
    batch_size: int = 64,
    device: torch.device | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] | None = None,
) -> Evaluation:
    """Return the mean loss and the metric of a model on the task's validation data.

    The model is put into its evaluation mode for the duration, every module's mode is restored,
    and the caller's random state is left as it was.

    Args:
        task: What to measure on.
        model: The network.
        step: The number of updates to note in the result.
        batch_size: Samples at once at most, where the data leaves the choice.
        device: Where the model is; None moves no batch.
        autocast: A factory of the context the forward pass runs in.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with random_state_kept(0), torch.no_grad(), task.valid.untouched():
            return _sweep(task, model, step, batch_size, device, autocast)
    finally:
        for module, training in modes:
            module.training = training


def _sweep(
    task: Task,
    model: nn.Module,
    step: int,
    batch_size: int,
    device: torch.device | None,
    autocast: Callable[[], AbstractContextManager[Any]] | None,
) -> Evaluation:
    metric: Metric | None = task.metric
    rows = max(1, min(batch_size, math.ceil((task.valid.samples or batch_size) / PARTS)))
    losses: list[Tensor] = []
    counts: list[int] = []
    sums: Tensor | None = None
    for batch, count in task.valid.sweep(rows):
        batch = move(batch, device)
        if autocast is None:
            loss, output, target = task.forward(model, batch)
        else:
            with autocast():
                loss, output, target = task.forward(model, batch)
        losses.append(loss.detach().double())
        counts.append(count)
        if metric is not None:
            part = _sums(metric, output, target)
            sums = part if sums is None else sums + part
    if not losses:
        raise TaskError("valid gave no batch: at least one is needed to judge a model by")
    parts = torch.stack(losses).tolist()
    weighted = [p * n for p, n in zip(parts, counts, strict=True)]
    # fsum refuses to add inf to -inf, which is nan like any other loss that broke.
    mean = (math.fsum if all(map(math.isfinite, weighted)) else sum)(weighted) / sum(counts)
    value = None if metric is None or sums is None else float(metric.finish(sums.tolist()))
    return Evaluation(step, mean, value, tuple(parts))


def _sums(metric: Metric, output: Any, target: Any) -> Tensor:
    try:
        return metric.sums(output, target)
    except EtudeError:
        raise
    except Exception as error:
        raise TaskError(
            f"metric {metric.name!r} failed on the output {describe(output)} with targets "
            f"{describe(target)}: {error}"
        ) from error


def move(batch: Batch, device: torch.device | None) -> Batch:
    """Return the batch with every tensor in it on `device`."""
    if device is None:
        return batch
    if isinstance(batch, Tensor):
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(move(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(move(value, device) for value in batch)
    return batch
