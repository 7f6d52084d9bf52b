"""Whether the network can fit one batch."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from etude.diagnosis.check.labels import CLASSES, LOGISTIC
from etude.diagnosis.check.short_run import ShortRun, has_dropout, short_recipe, short_run
from etude.diagnosis.check.subject import Look, Subject, attempt
from etude.diagnosis.finding import Finding, Symptom
from etude.errors import EtudeError
from etude.tasks.loss.loss_calls import SQUARES
from etude.tasks.metrics import IGNORED
from etude.tasks.sources.data import TensorData, rows

SAMPLES, UPDATES, SECONDS = 16, 200, 5.0
"""The number of samples, of updates at each rate, and of seconds at all rates together."""

FACTORS = (1.0, 10.0, 0.1)
"""Multiples of the recipe's rate, tried until one fits."""

FITTED, NOTHING, STILL = 0.8, 0.98, 0.01
"""A batch is fitted at this share of the loss of the best constant answer; nothing of it is at this
share, and a loss stands still if a quarter of the run lowers it by less than this share."""


def one_batch(subject: Subject) -> Look:
    """Train on one batch of at most 16 samples until its loss is below that of a constant answer.

    The best constant answers are the shares of the classes and the mean of the targets: a network
    with a lower loss reads its inputs. It is tried at the recipe's rate, ten times it and a tenth.
    A finding needs a loss that stands still at every rate, and no rate below 98% of the constant's.

    Cost: at most 3 · 200 updates of 16 samples, and at most 5 seconds; usually a few dozen updates.
    """
    what = "whether one batch can be fitted"
    batch, why = _batch(subject)
    if batch is None:
        return Look(unseen=f"{what}: {why}")
    constant = _constant(subject, batch)
    if constant is None or constant < 0.1:
        why = "the loss of the best constant answer is not known" if constant is None else (
            "its targets are alike"
        )  # fmt: skip
        return Look(unseen=f"{what}: {why}")
    count = rows(batch)
    data = TensorData(batch)
    task = replace(subject.task, train=data, valid=data, metric=None)
    end, tried = time.monotonic() + SECONDS, []
    more: dict[str, Any] = {"dropout": 0.0} if has_dropout(subject.run.model) else {}
    for factor in FACTORS:
        lr = subject.recipe.lr * factor
        recipe = short_recipe(subject.recipe, UPDATES, lr=lr, batch_size=count, **more)
        try:
            run = short_run(
                task, recipe, subject.run.device,
                until=lambda losses: bool(losses) and losses[-1] < FITTED * constant,
                seconds=max(0.0, end - time.monotonic()),
            )  # fmt: skip
        except EtudeError as error:
            return Look(unseen=f"{what}: {error}")
        tried.append((lr, run))
        low = min(run.losses, default=math.inf)
        if low < FITTED * constant:
            return Look(
                seen=f"one batch of {count} samples, fitted to a loss of {low:.3g} in "
                f"{len(run.losses)} updates (the best constant answer has {constant:.3g})"
            )
        if not run.complete:
            done = sum(len(one.losses) for _, one in tried)
            return Look(unseen=f"{what}: {done} updates took all the time there is")
    return _judged(what, count, constant, tried)


def _judged(what: str, count: int, constant: float, tried: list[tuple[float, ShortRun]]) -> Look:
    best = min(run.end for _, run in tried)
    rates = ", ".join(f"{lr:.3g}" for lr, _ in tried)
    said = (
        f"after {UPDATES} updates at each of the rates {rates} its loss is {best:.4g}, and the "
        f"best constant answer has {constant:.4g}"
    )
    if best < NOTHING * constant or not all(_stands_still(run) for _, run in tried):
        return Look(unseen=f"{what}: {said}")
    return Look(
        (
            Finding(
                Symptom.STALLED,
                evidence={"samples": count, "loss": best, "constant": constant},
                text=f"One batch of {count} samples cannot be fitted: {said}.",
                fix="Look at the gradient of each layer and at the outputs: they may not depend on "
                "the inputs.",
            ),
        ),
        f"one batch of {count} samples",
    )


def _stands_still(run: ShortRun) -> bool:
    if run.diverged:
        return True
    quarter = max(1, len(run.losses) // 4)
    last, before = run.losses[-quarter:], run.losses[-2 * quarter : -quarter]
    a, b = math.fsum(last) / len(last), math.fsum(before) / max(1, len(before))
    return a > (1 - STILL) * b


def _batch(subject: Subject) -> tuple[tuple[Tensor, ...] | None, str]:
    """Return a few samples of the first batch, or why there are none."""
    batch = subject.batch
    if not subject.is_plain:
        return None, "the task has a step of its own"
    if not isinstance(batch, (tuple, list)) or not all(
        isinstance(t, Tensor) and t.ndim and len(t) == rows(batch) for t in batch
    ):
        return None, "the batch is not made of tensors with a row for each sample"
    few = tuple(t[:SAMPLES].detach().clone() for t in batch)
    if rows(few) < 2:
        return None, "the batch has one sample"
    if all(bool((t == t[:1]).all()) for t in few[:-1]):
        return None, "all its inputs are alike"
    if attempt(subject, subject.network(), few) is None:
        return None, "the network does not take so few samples"
    return few, ""


def _constant(subject: Subject, batch: tuple[Tensor, ...]) -> float | None:
    """Return the loss of the best constant answer; None if it is not known for the loss.

    -Σ p log p over the classes for losses of classes, and the variance of the targets for squares.
    """
    call, y = subject.call, batch[-1]
    if call is None or not subject.compares_targets or call.options.get("reduction") != "mean":
        return None
    if abs((subject.loss or 0.0) - _plain_loss(subject)) > 1e-4 * abs(subject.loss or 1.0):
        return None  # the task's loss is not that of torch alone
    if call.options.get("weight") is not None or call.options.get("pos_weight") is not None:
        return None
    if call.name in CLASSES and not y.is_floating_point():
        return entropy(y[y != int(call.options.get("ignore_index", IGNORED))])
    if call.name in LOGISTIC:
        return sum(entropy(column) for column in y.reshape(len(y), -1).T) / max(1, y[0].numel())
    if call.name == SQUARES[0]:
        return float(y.double().reshape(len(y), -1).var(0, correction=0).mean())
    return None


def _plain_loss(subject: Subject) -> float:
    """Return what torch's loss alone gives on the first batch."""
    from torch.nn import functional

    call = subject.call
    assert call is not None
    given = {k: v for k, v in call.options.items() if k not in ("input", "target")}
    with torch.no_grad():
        return float(getattr(functional, call.name)(call.scores, call.target, **given))


def entropy(labels: Tensor) -> float:
    """Return -Σ p log p over the values of some labels, in nats.

    >>> round(entropy(torch.tensor([0, 1, 0, 1])), 4)
    0.6931
    """
    if not labels.numel():
        return 0.0
    _, counts = torch.unique(labels, return_counts=True)
    shares = counts.double() / labels.numel()
    return float(-(shares * shares.log()).sum())
