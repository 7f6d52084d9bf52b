"""Metrics: sums over batches, finished once, so that no metric depends on the batch size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from etude.errors import BadTypeError, TaskError, unknown_name
from etude.tasks.data import rows

IGNORED = -100
"""A target that asks for no answer, such as padding: what torch's losses ignore by default."""


@dataclass(frozen=True)
class Metric:
    """A number that says how good a model is.

    Attributes:
        name: What to call it.
        sums: (output, target) -> a tensor of sums over the batch, added up over batches; for a
            task with `step`, (model, batch).
        finish: The added-up sums -> the metric.
        maximize: Whether larger is better.
    """

    name: str
    sums: Callable[[Any, Any], Tensor]
    finish: Callable[[list[float]], float]
    maximize: bool


def _mean(sums: list[float]) -> float:
    return sums[0] / sums[1]


def _pair(of: Tensor, count: int | Tensor) -> Tensor:
    return torch.stack([of.double().sum(), torch.as_tensor(count, device=of.device).double()])


def _accuracy(output: Tensor, target: Tensor) -> Tensor:
    if output.shape == target.shape:  # one logit per answer: a two-class problem
        hits = (output > 0) == (target > 0.5)
    elif output.shape == (*target.shape, 1):
        hits = (output.squeeze(-1) > 0) == (target > 0.5)
    elif output.shape[:-1] == target.shape:
        hits = output.argmax(-1) == target
    elif output.ndim > 1 and output.shape[:1] + output.shape[2:] == target.shape:
        hits = output.argmax(1) == target
    else:
        raise TaskError(
            f"metric 'accuracy' cannot compare an output of shape {tuple(output.shape)} with "
            f"targets of shape {tuple(target.shape)}: give class scores of shape (N, classes) "
            "and labels of shape (N,)"
        )
    asked = target != IGNORED
    return _pair(hits & asked, asked.sum())


def _mse(output: Tensor, target: Tensor) -> Tensor:
    return _pair((_like(output, target, "mse") - target).square(), target.numel())


def _mae(output: Tensor, target: Tensor) -> Tensor:
    return _pair((_like(output, target, "mae") - target).abs(), target.numel())


def _r2_sums(output: Tensor, target: Tensor) -> Tensor:
    y = target.double()
    residual = (_like(output, target, "r2").double() - y).square().sum()
    count = torch.tensor(float(y.numel()), device=y.device).double()
    return torch.stack([residual, y.sum(), y.square().sum(), count])


def _r2(sums: list[float]) -> float:
    residual, total, squares, count = sums
    spread = squares - total * total / count
    return 1 - residual / spread if spread > 0 else math.nan


def _perplexity_sums(output: Tensor, target: Tensor) -> Tensor:
    scores = output.reshape(-1, output.shape[-1]).double()
    nll = torch.nn.functional.cross_entropy(scores, target.reshape(-1), reduction="sum")
    return _pair(nll, (target != IGNORED).sum())


def _perplexity(sums: list[float]) -> float:
    mean = _mean(sums)
    return math.exp(mean) if mean < 700 else math.inf


def _like(output: Tensor, target: Tensor, metric: str) -> Tensor:
    """Refuse the silent broadcast of (N, 1) against (N,), which compares every pair."""
    if output.shape != target.shape:
        raise TaskError(
            f"metric {metric!r} cannot compare an output of shape {tuple(output.shape)} with "
            f"targets of shape {tuple(target.shape)}: make the shapes equal"
        )
    return output


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _accuracy, _mean, maximize=True),
        Metric("mse", _mse, _mean, maximize=False),
        Metric("mae", _mae, _mean, maximize=False),
        Metric("r2", _r2_sums, _r2, maximize=True),
        Metric("perplexity", _perplexity_sums, _perplexity, maximize=False),
    )
}


def mean_metric(
    name: str, function: Callable[[Any, Any], Any], *, maximize: bool = False
) -> Metric:
    """Make a metric from a function of a batch, averaged over the samples.

    Args:
        name: What to call it.
        function: (output, target) -> the batch's mean value, a number or 0-d tensor; (model,
            batch) for a task with `step`.
        maximize: Whether larger is better.

    >>> bias = mean_metric("bias", lambda output, target: (output - target).mean())
    >>> bias.finish(bias.sums(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 1.0])).tolist())
    2.0
    """

    def sums(output: Any, target: Any) -> Tensor:
        count = _count(target)
        value = torch.as_tensor(function(output, target)).double()
        return torch.stack([value * count, torch.as_tensor(float(count)).double().to(value.device)])

    return Metric(name, sums, _mean, maximize)


def _count(target: Any) -> int:
    """Return the number of samples: rows of the first tensor, else the length."""
    if isinstance(target, (list, tuple)) and not any(
        isinstance(part, (Tensor, Mapping, list, tuple)) for part in target
    ):
        return len(target)
    return rows(target)


def as_metric(metric: Metric | str | Callable[[Any, Any], Any] | None) -> Metric | None:
    """Return the Metric meant by a name, a function (smaller is better), or a Metric.

    Raises:
        UnknownNameError: If the name is in no table.
        BadTypeError: If `metric` is none of these.
    """
    if metric is None or isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric not in METRICS:
            raise unknown_name("metric", metric, METRICS)
        return METRICS[metric]
    if callable(metric):
        return mean_metric(getattr(metric, "__name__", "metric"), metric)
    raise BadTypeError(
        f"metric must be a name, a function (output, target) -> number, or a Metric; "
        f"got {type(metric).__name__}"
    )
