"""Metrics, computed over all the validation data, so that none depends on the batch size."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from etude.errors import BadTypeError, TaskError, unknown_name
from etude.tasks import classification
from etude.tasks.collect import IGNORED, Collector, StreamedMetric, WholeMetric, pseudo_values
from etude.tasks.direction import direction_of
from etude.tasks.sources.data import rows

__all__ = [
    "IGNORED",
    "METRICS",
    "AnyMetric",
    "Metric",
    "StreamedMetric",
    "WholeMetric",
    "as_metric",
    "mean_metric",
    "topk",
]


@dataclass(frozen=True)
class Metric:
    """A measure of a model's quality, computed from sums over the batches.

    Attributes:
        name: What to call it.
        sums: (output, target) -> a tensor of sums over the batch, added up over batches; for a
            task with `step`, (model, batch).
        finish: The added-up sums -> the metric.
        maximize: Whether larger is better; None if unknown.
        whole: Whether the metric of a few samples differs much from that of all samples, as with
                F1 or R². Its noise is then estimated by leaving slices out, not from their values.
    """

    name: str
    sums: Callable[[Any, Any], Tensor]
    finish: Callable[[list[float]], float]
    maximize: bool | None
    whole: bool = False

    def collector(self) -> Collector:
        """Return a collector that adds up the sums of one evaluation."""
        return _Summing(self)

    def value(self, sums: list[float]) -> float:
        """Return the metric of added-up sums; NaN if no target counts."""
        try:
            return float(self.finish(sums))
        except (ArithmeticError, ValueError):
            return math.nan


AnyMetric = Metric | WholeMetric | StreamedMetric


@dataclass
class _Summing(Collector):
    metric: Metric
    sums: list[Tensor] = field(default_factory=list)

    def piece(self, output: Any, target: Any) -> Tensor:
        return self.metric.sums(output, target).detach()

    def keep(self, piece: Tensor) -> None:
        self.sums.append(piece)

    def result(self) -> tuple[float, tuple[float, ...]]:
        total = functools.reduce(torch.add, self.sums)
        whole, slices = self.metric.value(total.tolist()), torch.stack(self.sums)
        if not self.metric.whole:
            return whole, tuple(map(self.metric.value, slices.tolist()))
        rest = (total - slices).tolist()
        return whole, pseudo_values(whole, [self.metric.value(sums) for sums in rest])


def _mean(sums: list[float]) -> float:
    return sums[0] / sums[1]


def _pair(of: Tensor, count: int | Tensor) -> Tensor:
    return torch.stack([of.double().sum(), torch.as_tensor(count, device=of.device).double()])


def _accuracy(output: Tensor, target: Tensor) -> Tensor:
    if output.shape == target.shape:  # one logit per target: a two-class problem
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
    """Return the sums of residuals, targets and their squares per column, and the row count."""
    columns = target.shape[1] if target.ndim == 2 else 1
    y = target.double().reshape(-1, columns)
    residual = (_like(output, target, "r2").double().reshape(-1, columns) - y).square()
    sums = [part.sum(0) for part in (residual, y, y.square())]
    return torch.cat([*sums, y.new_tensor([len(y)])])


def _r2(sums: list[float]) -> float:
    """Return the mean over the columns of 1 - residual / spread, without constant columns."""
    rows, columns = sums[-1], len(sums) // 3
    values = []
    for residual, total, squares in zip(
        sums[:columns], sums[columns : 2 * columns], sums[2 * columns : -1], strict=True
    ):
        spread = squares - total * total / rows
        if spread > 0:
            values.append(1 - residual / spread)
    return math.fsum(values) / len(values) if values else math.nan


def _perplexity_sums(output: Tensor, target: Tensor) -> Tensor:
    scores = output.reshape(-1, output.shape[-1]).double()
    nll = torch.nn.functional.cross_entropy(scores, target.reshape(-1), reduction="sum")
    return _pair(nll, (target != IGNORED).sum())


def _perplexity(sums: list[float]) -> float:
    mean = _mean(sums)
    return math.exp(mean) if mean < 700 else math.inf


def _like(output: Tensor, target: Tensor, metric: str) -> Tensor:
    """Return the output; raise where torch would broadcast (N, 1) against (N,) to all pairs."""
    if output.shape != target.shape:
        raise TaskError(
            f"metric {metric!r} cannot compare an output of shape {tuple(output.shape)} with "
            f"targets of shape {tuple(target.shape)}: make the shapes equal"
        )
    return output


def topk(k: int) -> Metric:
    """Return the metric 'top k': the share of targets whose class is among the k highest scores.

    Args:
        k: At least 1, and below the number of classes.

    >>> topk(2).name
    'top2'

    Source: scikit-learn's `top_k_accuracy_score`.
    """
    name = f"top{k}"
    return Metric(name, classification.top_k(name, k), _mean, maximize=True)


METRICS: Mapping[str, AnyMetric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _accuracy, _mean, maximize=True),
        Metric("mse", _mse, _mean, maximize=False),
        Metric("mae", _mae, _mean, maximize=False),
        Metric("r2", _r2_sums, _r2, maximize=True, whole=True),
        Metric("perplexity", _perplexity_sums, _perplexity, maximize=False),
        Metric("f1", classification.counts("f1"), classification.f1, maximize=True, whole=True),
        Metric(
            "balanced_accuracy",
            classification.counts("balanced_accuracy"),
            classification.balanced_accuracy,
            maximize=True,
            whole=True,
        ),
        WholeMetric("auroc", classification.auroc, maximize=True),
        WholeMetric("average_precision", classification.average_precision, maximize=True),
        replace(topk(5), name="topk"),
    )
}


OF_NUMBERS = ("mse", "mae", "r2")
"""The named metrics that compare numbers, and no scores of classes."""


def reads_scores(metric: AnyMetric) -> bool:
    """Return whether a metric is a named one that reads class scores, such as 'accuracy'.

    >>> reads_scores(METRICS["f1"]), reads_scores(topk(2)), reads_scores(METRICS["mse"])
    (True, True, False)
    >>> reads_scores(mean_metric("accuracy", lambda output, target: 1.0))
    False
    """
    own = METRICS.get(metric.name)
    if metric.name in OF_NUMBERS or isinstance(metric, StreamedMetric):
        return False
    if isinstance(metric, WholeMetric):
        return isinstance(own, WholeMetric) and metric.function is own.function
    known = isinstance(own, Metric) and metric.sums is own.sums
    return known or getattr(metric.sums, "__qualname__", "").startswith("top_k.")


def mean_metric(
    name: str, function: Callable[[Any, Any], Any], *, maximize: bool | None = None
) -> Metric:
    """Return a metric that averages a function of a batch over the samples.

    Args:
        name: What to call it.
        function: (output, target) -> the batch's mean value, a number or 0-d tensor; (model,
            batch) for a task with `step`.
        maximize: Whether larger is better. None infers it from the name; tuning by the metric
            raises an error if the name does not tell.

    >>> bias = mean_metric("bias", lambda output, target: (output - target).mean())
    >>> bias.finish(bias.sums(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 1.0])).tolist())
    2.0
    """

    def sums(output: Any, target: Any) -> Tensor:
        count = _count(target)
        value = torch.as_tensor(function(output, target)).double()
        return torch.stack([value * count, torch.as_tensor(float(count)).double().to(value.device)])

    return Metric(name, sums, _mean, direction_of(name) if maximize is None else maximize)


def _count(target: Any) -> int:
    """Return the number of samples: rows of the first tensor, else the length."""
    if isinstance(target, (list, tuple)) and not any(
        isinstance(part, (Tensor, Mapping, list, tuple)) for part in target
    ):
        return len(target)
    return rows(target)


def as_metric(
    metric: Any, maximize: bool | None = None, *, of_step: bool = False
) -> AnyMetric | None:
    """Return the metric given by a name, a function, a torchmetrics object, or a metric.

    A function is called once on all outputs and targets. For a task with `step`, which has no
    outputs to gather, it is called on (model, batch) and averaged over the samples.

    Args:
        metric: The value of the task's `metric` argument.
        maximize: Whether larger is better. None takes the metric's own attribute, or infers it
            from its name.
        of_step: Whether the metric belongs to a task with `step`.

    Raises:
        UnknownNameError: If no metric has this name.
        BadTypeError: If `metric` is none of these, or `maximize` is neither True nor False.
        TaskError: If it needs the model's outputs, which a step does not return.
    """
    if maximize is not None and not isinstance(maximize, bool):
        raise BadTypeError(f"maximize={maximize!r}: give True, False or None")
    found = _made(metric, of_step=of_step)
    if found is None or maximize is None or found.maximize == maximize:
        return found
    return replace(found, maximize=maximize)


def _made(metric: Any, *, of_step: bool) -> AnyMetric | None:
    if metric is None or isinstance(metric, Metric):
        if of_step and metric is not None and metric is METRICS.get(metric.name):
            raise _hidden(metric.name)
        return metric
    if isinstance(metric, str):
        if of_step:
            raise _hidden(_named(metric).name)
        return _named(metric)
    if isinstance(metric, (WholeMetric, StreamedMetric)):
        if of_step and getattr(metric, "outputs", None) is None:
            raise _hidden(metric.name)
        return metric
    if not isinstance(metric, type) and all(
        callable(getattr(metric, part, None)) for part in ("update", "compute", "reset")
    ):
        name, better = type(metric).__name__, getattr(metric, "higher_is_better", None)
        if of_step:
            raise _hidden(name)
        return StreamedMetric(name, metric, direction_of(name) if better is None else bool(better))
    if callable(metric) and not isinstance(metric, type):
        name = getattr(metric, "__name__", None) or type(metric).__name__
        if of_step:
            return mean_metric(name, metric)
        return WholeMetric(name, metric, direction_of(name))
    given = f"the class {metric.__name__}" if isinstance(metric, type) else type(metric).__name__
    raise BadTypeError(
        "metric must be a name, a function (output, target) -> number, a Metric, or an object "
        f"with update, compute and reset; got {given}"
    )


def _named(name: str) -> AnyMetric:
    top = re.fullmatch(r"top[-_]?([1-9]\d*)(?:[-_]?(?:accuracy|acc))?", name)
    if top is not None:
        return topk(int(top[1]))
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]


def _hidden(name: str) -> TaskError:
    return TaskError(
        f"metric={name!r} needs the model's output, which step= does not return: give a "
        "function (model, batch) -> number, a WholeMetric with outputs=, or use loss= in place of "
        "step="
    )
