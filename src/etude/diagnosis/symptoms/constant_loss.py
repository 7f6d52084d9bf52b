"""A run that ends no better than the best constant output."""

from __future__ import annotations

from dataclasses import replace

from etude.diagnosis.evidence.measures import recent_relative_loss
from etude.diagnosis.finding import Finding, Symptom
from etude.diagnosis.history import History
from etude.diagnosis.symptoms.curve import falls_still, loss_curve
from etude.diagnosis.symptoms.progress import slow

EQUAL, SURE = 0.02, 0.05
"""The loss is that of a constant if it is at most 2% lower, and surely not 5% lower."""

FAR = 2.0
"""From here on, the loss is not that of a constant but far above it, and the sentence says so."""

LONG = 100
"""The number of updates below which nothing is said."""


def no_better_than_constant(history: History) -> list[Finding]:
    """Find a run that is over and whose loss is that of the best constant output, or above.

    The mean of the last tenth of the losses is above 98% of the constant's, and two standard errors
    below it is above 95%; see `relative_losses`. A run that goes on is left alone, since many begin
    with a long plateau; so are one whose loss still falls beyond its noise in the second half, or
    steadily (see `slow`), optimizers that play a game, and runs below 100 updates.
    """
    if not history.ended or history.updates < LONG or _goes_on(history):
        return []
    mean, error = recent_relative_loss(history)
    if not (mean > 1 - EQUAL and mean - 2 * error > 1 - SURE):
        return []
    far = mean - 2 * error > FAR
    curve = loss_curve(history)
    if far and curve is not None and curve.now > curve.start + abs(curve.start):
        said = f", and above twice its start of {curve.start:.4g}: it has risen"
    elif far:
        said = ": it no longer falls, far above it"
    else:
        said = ", which needs no inputs"
    return [
        Finding(
            Symptom.STALLED,
            f"The run ended after {history.updates} updates with a training loss {mean:.2f} times "
            f"that of the best constant output{said}.",
            step=history.updates - 1,
            evidence={"relative_loss": mean, "error": error},
        )
    ]


def _goes_on(history: History) -> bool:
    curve = loss_curve(history)
    return (curve is not None and falls_still(curve)) or bool(slow(history))


def with_stuck(history: History) -> History:
    """Return the history with `stuck` set where it ends no better than a constant output."""
    return replace(history, stuck=True) if no_better_than_constant(history) else history
