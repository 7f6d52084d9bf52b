"""A model's loss and metric on the validation data, slice by slice."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import EtudeError, TaskError, where
from etude.randomness import random_state_kept
from etude.tasks.data import Batch
from etude.tasks.metrics import Metric
from etude.tasks.task import Task, describe
from etude.training.record import Evaluation
from etude.training.undo import buffers_kept

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
    its buffers (a state carried from batch to batch) and the caller's random state are left as
    they were. A step that needs gradients of its own, for a penalty on them, gets them.

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
        with task.valid.untouched(), buffers_kept(model):
            try:
                with random_state_kept(0), torch.no_grad():
                    return _sweep(task, model, step, batch_size, device, autocast)
            except TaskError as error:
                if task.step is None or "does not require grad" not in str(error.__cause__):
                    raise
        with (
            task.valid.untouched(),
            buffers_kept(model),
            random_state_kept(0),
            torch.enable_grad(),
        ):
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
    sums: list[Tensor] = []
    context = autocast or nullcontext
    for batch, count in task.valid.sweep(rows):
        batch = move(batch, device)
        with context():
            loss, output, target = task.forward(model, batch)
        losses.append(loss.detach().double())
        counts.append(count)
        if metric is not None and task.step is None:
            sums.append(_sums(metric, output, target))
        elif metric is not None:
            with context():
                sums.append(_sums(metric, model, batch).detach())
    if not losses:
        raise TaskError("valid gave no batch: at least one is needed to judge a model by")
    parts = torch.stack(losses).tolist()
    weighted = [p * n for p, n in zip(parts, counts, strict=True)]
    # fsum refuses to add inf to -inf, which is nan like any other loss that broke.
    mean = (math.fsum if all(map(math.isfinite, weighted)) else sum)(weighted) / sum(counts)
    if metric is None:
        return Evaluation(step, mean, None, tuple(parts))
    total = float(metric.finish(functools.reduce(torch.add, sums).tolist()))
    slices = torch.stack(sums).tolist()
    return Evaluation(step, mean, total, tuple(parts), tuple(_of_slice(metric, s) for s in slices))


def _of_slice(metric: Metric, sums: list[float]) -> float:
    """Return the metric of one slice, NaN where it has no answer that counts."""
    try:
        return float(metric.finish(sums))
    except (ArithmeticError, ValueError):
        return math.nan


def _sums(metric: Metric, output: Any, target: Any) -> Tensor:
    try:
        return metric.sums(output, target)
    except EtudeError:
        raise
    except Exception as error:
        what = (
            f"the batch {describe(target)}"
            if isinstance(output, nn.Module)
            else f"the output {describe(output)} with targets {describe(target)}"
        )
        raise TaskError(
            f"metric {metric.name!r} failed on {what}: {error}{where(error)}"
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
