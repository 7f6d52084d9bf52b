"""The curve of a trial: its validation score and training loss at each evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etude.schedules import Clock, Schedule

POINTS = 1000
"""The number of points at which a schedule is summed to get its area."""

WINDOW = 16
"""The training loss before an evaluation is averaged over 1/WINDOW of the run."""


@dataclass(frozen=True)
class Curve:
    """The evaluations of a trial so far, without the one before training.

    Attributes:
        lr: The rate.
        shares: The share of the run that was done at each evaluation, ascending.
        scores: The validation score of each; lower is better.
        training: The mean training loss over the sixteenth of the run before each.
        told: For each, whether its score is better than that of a constant output by more than
            noise; empty if that is unknown.
    """

    lr: float
    shares: tuple[float, ...]
    scores: tuple[float, ...]
    training: tuple[float, ...]
    told: tuple[bool, ...] = ()

    def until(self, share: float) -> Curve:
        """Return the part of the curve up to a share of the run."""
        count = sum(s <= share + 1e-9 for s in self.shares)
        seen = self.shares[:count], self.scores[:count], self.training[:count]
        return Curve(self.lr, *seen, self.told[:count])

    def at(self, share: float) -> float:
        """Return the score at a share of the run; infinite if there was no evaluation."""
        place = self._place(share)
        return math.inf if place is None else self.scores[place]

    def trained(self, share: float) -> float:
        """Return the mean training loss before a share of the run; infinite if it is unknown."""
        place = self._place(share)
        loss = math.inf if place is None else self.training[place]
        return loss if math.isfinite(loss) else math.inf

    def beats_constant(self, share: float) -> bool:
        """Return whether there is a score at a share of the run that beats a constant output."""
        place = self._place(share)
        return place is not None and (not self.told or self.told[place])

    def _place(self, share: float) -> int | None:
        return next((i for i, x in enumerate(self.shares) if abs(x - share) < 1e-6), None)


@dataclass(frozen=True)
class Exposure:
    """The share of a schedule's area that is done at each share of the run: 0 to 1.

    To first order, the weights after some updates depend only on the sum of the rates so far
    (gradient flow). A rate η at share s of its run is therefore as far as the rate η·A(s)/A(1) at
    the end of its run, where A is the area under the schedule.

    >>> from etude.schedules import linear
    >>> round(Exposure.of(linear(), 1_000).behind(0.5), 2)
    0.75
    """

    sums: tuple[float, ...]

    @classmethod
    def of(cls, schedule: Schedule, length: int) -> Exposure:
        """Return the exposure of a schedule over a run."""
        return cls.over(schedule.over(Clock(horizon=length)), length)

    @classmethod
    def over(cls, shape: Schedule, length: int) -> Exposure:
        """Return the exposure of a schedule that is bound to a run."""
        count = min(POINTS, length)
        total, sums = 0.0, [0.0]
        for i in range(count):
            total += max(0.0, float(shape(length * i // count)))
            sums.append(total)
        return cls(tuple(s / total if total > 0 else i / count for i, s in enumerate(sums)))

    def behind(self, share: float) -> float:
        """Return the share of the area that is done."""
        place = min(max(share, 0.0), 1.0) * (len(self.sums) - 1)
        low = min(int(place), len(self.sums) - 2)
        return self.sums[low] + (place - low) * (self.sums[low + 1] - self.sums[low])

    def log10(self, lr: float, share: float) -> float:
        """Return log10 of the rate that is as far at its end as `lr` is at `share`."""
        return math.log10(lr) + math.log10(max(self.behind(share), 1e-12))


def drop(untrained: float, scores: Sequence[float]) -> float:
    """Return by how much the best of some scores is below the untrained one.

    If the untrained score is not finite, for instance of a metric that is undefined at first, the
    worst score takes its place.

    >>> drop(3.0, [2.5, 1.0]), drop(math.inf, [2.5, 1.0])
    (2.0, 1.5)
    """
    finite = [score for score in scores if math.isfinite(score)]
    if not finite:
        return 1e-12
    top = untrained if math.isfinite(untrained) else max(finite)
    return max(top - min(finite), 1e-12)


def mean_training_loss(
    losses: Sequence[float] | NDArray[np.float64], step: int, length: int
) -> float:
    """Return the mean training loss over the sixteenth of a run before an update.

    Args:
        losses: Of each update so far; those that are not finite were skipped.
        step: The update.
        length: Updates of the full run.

    Returns:
        The mean; NaN if there is no finite loss.

    >>> mean_training_loss([4.0, 3.0, 2.0, 1.0], step=4, length=32)
    1.5
    """
    recent = losses[max(0, step - max(1, length // WINDOW)) : step]
    finite = [loss for loss in recent if math.isfinite(loss)]
    return math.fsum(finite) / len(finite) if finite else math.nan
