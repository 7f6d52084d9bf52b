"""Judges from the first updates of a run whether its rate is stable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from etude.measure.stall import stands_still
from etude.record import to_json

SPIKE, WORTH = 2.0, 0.1
"""A rise of the loss is a spike if it is more than this many times the largest rise of the recipe's
own run, and more than this share of the recipe's drop in loss."""


@dataclass(frozen=True)
class Probe:
    """The result of one rate over the first updates of the recipe's schedule.

    Attributes:
        lr: The rate, before the schedule.
        updates: The number of updates done.
        diverged: Whether the loss became NaN or infinite.
        first: The training loss before the first update.
        last: The mean training loss over the last tenth of the updates.
        rise: The largest rise of the loss above its lowest earlier value.
        rise_at: The update at which it occurred.
        spiked: Whether the rise is more than twice that of the recipe's rate, and more than a tenth
            of the recipe's drop in loss.
        norm: The 90th percentile of the gradient's norm, before clipping.
        unstable: Whether training broke.
        reason: Why it counts as unstable; empty if it is stable.
    """

    lr: float
    updates: int
    diverged: bool
    first: float
    last: float
    rise: float
    rise_at: int
    spiked: bool
    norm: float
    unstable: bool
    reason: str

    def plain(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        numbers = ("first", "last", "rise", "norm")
        return {**vars(self), **{name: to_json(getattr(self, name)) for name in numbers}}


def judge(
    lr: float,
    losses: Sequence[float],
    norms: Sequence[float],
    broke: str,
    own: Sequence[float] | None,
    *,
    higher: bool = True,
) -> Probe:
    """Judge from a run's training losses whether its rate is stable.

    Args:
        lr: The rate.
        losses: The finite loss of each update.
        norms: The norm of each gradient.
        broke: Why the run diverged; empty if it did not.
        own: The losses at the recipe's rate; None if this is the recipe's rate.
        higher: Whether the rate is above the recipe's.

    >>> judge(0.1, [1.0] * 10, [1.0], "", None).reason
    'the loss does not fall: it is 1 at the start and 1 at the end'
    >>> judge(0.1, [1.0 / (t + 1) for t in range(10)], [1.0], "", None).unstable
    False
    """
    first = losses[0] if len(losses) else math.nan
    last, middle = _mean(losses, 1.0), _mean(losses, 0.55)
    reason = broke
    drop = _drop(losses if own is None else own)
    if not reason and not last < first:
        reason = f"the loss does not fall: it is {first:.4g} at the start and {last:.4g} at the end"
    if not reason and own is not None and higher and drop > 0:
        kept, gained = (first - last) / drop, (middle - last) / drop
        if stands_still(kept, gained):
            reason = f"the loss stalls at {last:.4g}, after {kept:.0%} of the recipe's drop"
    rise, where = _rise(losses)
    spiked = own is not None and rise > SPIKE * _rise(own)[0] and rise > WORTH * max(0.0, drop)
    return Probe(
        lr=lr,
        updates=len(losses),
        diverged=bool(broke),
        first=first,
        last=last,
        rise=rise,
        rise_at=where,
        spiked=spiked,
        norm=float(np.percentile(norms, 90)) if len(norms) else math.nan,
        unstable=bool(reason),
        reason=reason,
    )


def _mean(losses: Sequence[float], share: float) -> float:
    """Return the mean over a tenth of the updates, which ends at a share of all updates."""
    end = max(1, round(len(losses) * share))
    part = losses[max(0, end - max(1, len(losses) // 10)) : end]
    return float(np.mean(part)) if len(part) else math.nan


def _drop(losses: Sequence[float]) -> float:
    return losses[0] - _mean(losses, 1.0) if len(losses) else 0.0


def _rise(losses: Sequence[float]) -> tuple[float, int]:
    """Return the largest rise above the running minimum, and the update at which it occurs."""
    if not len(losses):
        return 0.0, 0
    values = np.asarray(losses)
    rises = values - np.minimum.accumulate(values)
    where = int(rises.argmax())
    return float(rises[where]), where
