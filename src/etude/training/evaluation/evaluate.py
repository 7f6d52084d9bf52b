"""Computes a model's loss and metric on the validation data, slice by slice."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from etude.errors import EtudeError, TaskError, where
from etude.randomness import random_state_kept
from etude.record import Evaluation
from etude.tasks.collect import Collector
from etude.tasks.loss.reading import Reading, reading_of
from etude.tasks.loss.weighted import Terms, WeightedLoss
from etude.tasks.metrics import AnyMetric, reads_scores
from etude.tasks.sources.data import Batch
from etude.tasks.sources.shards import Shard
from etude.tasks.task import Task, describe, widened
from etude.training.evaluation.joined_slices import Answers, JoinedSlices
from etude.training.evaluation.shared_sweep import EvaluatedSlice, SharedSweep
from etude.training.machine.eager import eagerly
from etude.training.state.snapshot import buffers_kept, modes_kept
from etude.training.world import SINGLE, World

PARTS = 16
"""The least number of slices of a validation set (if it has that many samples)."""


def evaluate(
    task: Task,
    model: nn.Module,
    *,
    step: int = 0,
    batch_size: int = 64,
    device: torch.device | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] | None = None,
    world: World = SINGLE,
    answers: Answers | None = None,
) -> Evaluation:
    """Return the mean loss and the metric of a model on all of the task's validation data.

    The loss is the mean over all answered targets, regardless of how the slices divide them.

    The model is evaluated in its evaluation mode, without `torch.compile`. Afterwards the mode of
    every module, its buffers (such as a state carried from batch to batch) and the caller's random
    state are restored. If a step needs gradients, for a penalty on them, they are enabled.

    Args:
        task: The task with the validation data.
        model: The network.
        step: The number of updates to write into the result.
        batch_size: The largest number of samples at once, if the data allow a choice. Small slices
            are computed together up to it, if the model lets them; see `JoinedSlices`.
        device: The model's device; None moves no batch.
        autocast: A factory of the context of the forward pass.
        world: The processes that divide the slices; the result has the bits of a single one.
        answers: What computes the losses and outputs of slices, in place of the model.
    """
    with modes_kept(model):
        model.eval()
        with task.valid.untouched(), buffers_kept(model), eagerly():
            try:
                with random_state_kept(0), torch.no_grad():
                    return _sweep(task, model, step, batch_size, device, autocast, world, answers)
            except TaskError as error:
                if task.step is None or "does not require grad" not in str(error.__cause__):
                    raise
        with (
            task.valid.untouched(),
            buffers_kept(model),
            eagerly(),
            random_state_kept(0),
            torch.enable_grad(),
            _differentiable(task, model, device),
        ):
            return _sweep(task, model, step, batch_size, device, autocast, world, answers)


def _differentiable(
    task: Task, model: nn.Module, device: torch.device | None
) -> AbstractContextManager[Any]:
    """Return a block in which a step may take gradients through recurrent layers.

    On a GPU those of cuDNN have none in evaluation mode. A task with a loss takes no gradient.
    """
    on_gpu = device is not None and device.type == "cuda" and task.step is not None
    if on_gpu and any(isinstance(module, nn.RNNBase) for module in model.modules()):
        return torch.backends.cudnn.flags(enabled=False)
    return nullcontext()


def _sweep(
    task: Task,
    model: nn.Module,
    step: int,
    batch_size: int,
    device: torch.device | None,
    autocast: Callable[[], AbstractContextManager[Any]] | None,
    world: World,
    answers: Answers | None,
) -> Evaluation:
    rows = max(1, min(batch_size, math.ceil((task.valid.samples or batch_size) / PARTS)))
    metric: AnyMetric | None = task.metric
    collector = None if metric is None else metric.collector()
    context = autocast or nullcontext
    shared = SharedSweep(model, world)
    answers = answers or JoinedSlices(task, model, context).answers
    limit = 0 if task.step is not None else batch_size
    reads = metric is not None and task.step is None and reads_scores(metric)
    reading: Reading | None = None
    for group in shared.groups(task.valid, rows, limit):
        batches = [move(batch, device) for _, batch, _ in group]
        for (place, _, count), batch, (loss, output, target) in zip(
            group, batches, answers(batches), strict=True
        ):
            one = EvaluatedSlice(place, replace(loss, mean=loss.mean.detach()).read(), count)
            shared.found.append(one)
            if metric is None or collector is None:
                continue
            given = (output, target) if task.step is None else (model, batch)
            if reads:
                reading = reading or reading_of(task.loss, output, widened(target))
                given = reading.of(output, target)
            with nullcontext() if task.step is None else context():
                one.piece = _piece(metric, collector, *given, keeps=world.size == 1)
    found = shared.assembled(None if collector is None else collector.keep)
    if not found:
        raise TaskError("valid gave no batch: at least one is needed to evaluate a model")
    mean, parts, weight = together([one.loss for one in found], [one.count for one in found])
    if metric is None or collector is None:
        return Evaluation(step, mean, None, parts, (), weight)
    value, slices = _result(metric, collector)
    if math.isnan(value) and math.isfinite(mean):
        warnings.warn(undefined(metric.name, collector.why()), stacklevel=5)
    return Evaluation(step, mean, value, parts, slices, weight)


def undefined(name: str, why: str) -> str:
    """Return a message that a metric is NaN, with the reason if it is known."""
    why = f": {why}" if why else ", while the loss is finite: check the metric"
    return f"metric {name!r} is nan on the validation data{why}"


def together(
    losses: Sequence[WeightedLoss], counts: Sequence[int]
) -> tuple[float, tuple[float, ...], float | None]:
    """Return the loss of all slices, the contribution of each, and the total weight.

        L = Σ_s w_s L_s / Σ_s w_s

    If the weights are proportional to the numbers of samples, or unknown, those numbers are used.
    A loss that is a sum of means over different numbers of targets, such as those of two heads, is
    put together mean by mean:

        L = Σ_k Σ_s w_sk L_sk / Σ_s w_sk

    Args:
        losses: The loss of each slice.
        counts: The number of samples of each slice.
    """
    means = torch.stack([loss.mean.double() for loss in losses]).tolist()
    known = [loss.weight for loss in losses if loss.weight is not None]
    number = len(losses[0].terms)
    if len(known) < len(losses) and number and all(len(loss.terms) == number for loss in losses):
        return _by_terms([loss.terms for loss in losses])
    weights = [float(weight) for weight in known] if len(known) == len(losses) else []
    total = math.fsum(weights) if weights else None
    first = (weights[0], counts[0]) if weights else (0.0, 1)
    if all(w * first[1] == first[0] * n for w, n in zip(weights, counts, strict=False)):
        return _mean(means, [float(n) for n in counts]), tuple(means), total
    if total == 0:
        return math.nan, tuple(means), total
    # A mean over nothing is NaN, and does not count.
    means = [m if w else 0.0 for m, w in zip(means, weights, strict=True)]
    middle = math.fsum(weights) / len(weights)
    parts = tuple(m * (w / middle) for m, w in zip(means, weights, strict=True))
    return _mean(means, weights), parts, total


def _by_terms(slices: Sequence[Terms]) -> tuple[float, tuple[float, ...], None]:
    """Return what `together` does, for sums of means: each mean over all slices, then the sum."""
    found = [
        together([WeightedLoss(mean, weight) for mean, weight in terms], [1] * len(terms))
        for terms in zip(*slices, strict=True)
    ]
    wholes, parts, _ = zip(*found, strict=True)
    return sum(wholes), tuple(map(sum, zip(*parts, strict=True))), None


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    weighted = [v * w for v, w in zip(values, weights, strict=True)]
    # fsum raises for inf + -inf, where sum gives nan.
    return (math.fsum if all(map(math.isfinite, weighted)) else sum)(weighted) / math.fsum(weights)


def _piece(
    metric: AnyMetric, collector: Collector, output: Any, target: Any, *, keeps: bool
) -> Any:
    """Return what the metric needs of a slice; with `keeps`, the collector has it already."""
    try:
        piece = collector.piece(output, target)
        if not keeps:
            return piece
        collector.keep(piece)
        return None
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


def _result(metric: AnyMetric, collector: Collector) -> tuple[float, tuple[float, ...]]:
    try:
        return collector.result()
    except EtudeError:
        raise
    except Exception as error:
        raise TaskError(
            f"metric {metric.name!r} failed on the whole validation data: {error}{where(error)}"
        ) from error


def move(batch: Batch, device: torch.device | None) -> Batch:
    """Return the batch with every tensor in it on `device`.

    Of an object of another kind, its own method `to` moves what is in it.
    """
    if device is None:
        return batch
    if isinstance(batch, Tensor):
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if isinstance(batch, Shard):
        return replace(batch, batch=move(batch.batch, device))
    if isinstance(batch, dict):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, PackedSequence):
        return batch.to(device)  # type: ignore[arg-type]  # its lengths stay on the CPU
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*[move(value, device) for value in batch])
    if isinstance(batch, (list, tuple)):
        return type(batch)([move(value, device) for value in batch])
    if device.type != "cpu" and callable(getattr(batch, "to", None)):
        return batch.to(device)
    return batch
