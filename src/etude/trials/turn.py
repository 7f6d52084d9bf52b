"""The turn: a validation score rises while the training loss still falls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from etude.record import Evaluation, Record
from etude.training.state.state import RunState
from etude.trials.baseline import SURE, noise
from etude.trials.curve import WINDOW, mean_training_loss
from etude.trials.score import Goal

RISEN = 0.02
"""Share of its fall by which a score must have risen since its lowest."""

FALLEN = 0.02
"""Share of the untrained loss by which the training loss must have fallen since then."""


@dataclass(frozen=True)
class Turn:
    """Where a curve turned up, and by how much until its end.

    Attributes:
        lowest: The place of its lowest score.
        risen: By how much the score rose from there.
        before: The training loss there.
        after: The training loss at the end.
    """

    lowest: int
    risen: float
    before: float
    after: float


def turn(
    scores: Sequence[float],
    training: Sequence[float],
    *,
    scale: float,
    loss: float,
    error: float = 0.0,
    risen: float = RISEN,
) -> Turn | None:
    """Return how a curve turned up, beyond noise; None if it did not.

        y_n − y_k > max(risen · scale, 3 · error, rebound(y_1 … y_k))    with y_k = min y
        t_k − t_n > 0.02 · loss

    The lowest of many noisy scores is low by luck, too. Two measures of that noise count: the
    standard error of the difference, where it is known, and the highest rise that the curve came
    back from before it was lowest.

    Args:
        scores: At each evaluation, at least one; lower is better.
        training: The mean training loss before each.
        scale: The fall that a rise is held against.
        loss: The magnitude of the loss before training.
        error: The standard error of y_n − y_k; 0 if it is not known.
        risen: The share of `scale` that the score must have risen by.

    >>> turn([1.0, 0.25, 0.5], [1.0, 0.5, 0.25], scale=0.75, loss=1.0)
    Turn(lowest=1, risen=0.25, before=0.5, after=0.25)
    >>> turn([1.0, 0.25, 0.5], [1.0, 0.5, 0.5], scale=0.75, loss=1.0)  # training does not fall
    """
    lowest = min(range(len(scores)), key=scores.__getitem__)
    rise = scores[-1] - scores[lowest]
    before, after = training[lowest], training[-1]
    noisy = max(SURE * error, rebound(scores[: lowest + 1]))
    if rise > max(risen * scale, noisy) and before - after > FALLEN * loss:
        return Turn(lowest, rise, before, after)
    return None


def turn_of_run(
    record: Record | RunState, evaluations: Sequence[Evaluation], risen: float = RISEN
) -> Turn | None:
    """Return how a run's validation loss turned up, beyond noise; None if it did not.

    The rise is held against the fall of the loss from the untrained one to the lowest, or against
    that of the training loss from there on, whichever is larger: where the validation loss never
    fell, any rise is large beside it. See `turn`.

    Args:
        record: The run, or its state.
        evaluations: Those that count, in order, at least one, with finite losses; the first is
            that of the untrained network.
        risen: The share of the fall that the loss must have risen by.
    """
    untrained, last = evaluations[0], evaluations[-1]
    best = min(evaluations, key=lambda evaluation: evaluation.loss)
    # A peak right after the start is no noise, so the untrained loss does not count for rebounds.
    first = 0 if best is untrained else 1
    losses, part = record.series.get("loss", ()), max(1, record.length // WINDOW)
    training = [
        mean_training_loss(losses, e.step or part, record.length) for e in evaluations[first:]
    ]
    at_best = training[evaluations.index(best) - first]
    found = turn(
        [e.loss for e in evaluations[first:]],
        training,
        scale=max(untrained.loss - best.loss, at_best - training[-1]),
        loss=abs(untrained.loss),
        error=noise(last, best, Goal()),
        risen=risen,
    )
    return found and replace(found, lowest=found.lowest + first)


def rebound(scores: Sequence[float]) -> float:
    """Return the highest rise that scores made and came back from.

    >>> rebound([3.0, 1.0, 2.5, 0.5]), rebound([3.0, 2.0, 1.0])
    (1.5, 0.0)
    """
    highest, lowest = 0.0, math.inf
    for score in scores:
        if not math.isfinite(score):
            continue
        lowest = min(lowest, score)
        highest = max(highest, score - lowest)
    return highest
